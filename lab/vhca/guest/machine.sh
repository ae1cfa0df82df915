# SPDX-License-Identifier: GPL-2.0

# One machine: every part of the card, in the order in which a node meets it.
. /root/lib.sh
modprobe ib_core netns_mode=1
load_stack
modprobe vhca pkeys=0xffff,0x8001,0x8002

section "PCI"
check "lspci as the guide shows it" \
	is '86:00.0 Infiniband controller [0207]: Mellanox Technologies MT27800 Family [ConnectX-5] [15b3:1017]' \
	sh -c 'lspci -nn | grep Infiniband'
check "TotalVFs is 16" is 16 cat $PF/sriov_totalvfs
refuse "more VFs than TotalVFs" write 17 $PF/sriov_numvfs
check "12 VFs" write 12 $PF/sriov_numvfs
check "virtfn11 leads to its VF" is ../0000:86:01.4 readlink $PF/virtfn11
check "physfn leads back" is ../0000:86:00.0 readlink "$(vf 11)/physfn"
check "VF device id is 1018" is 0x1018 cat "$(vf 11)/device"
refuse "another number of VFs without 0 first" write 3 $PF/sriov_numvfs
check "VFs are bound to mlx5_core" [ -e $DRIVER/0000:86:01.4 ]

section "RDMA devices"
check "13 RDMA devices" is 13 sh -c 'rdma dev | wc -l'
check "rdma link as the guide shows it" \
	says '^link mlx5_0/1 subnet_prefix fe80:0000:0000:0000 lid 2 sm_lid 1 lmc 0 state ACTIVE physical_state LINK_UP' rdma link
check "ibstat link layer" says 'Link layer: InfiniBand' ibstat mlx5_0
check "smpquery" says 'Guid:\.+0xe8ebd3030093ae10' smpquery nodeinfo 2
check "VF 3 has mlx5_4" is mlx5_4 ls "$(vf 3)/infiniband"
check "VF 3 has ib4" is ib4 ls "$(vf 3)/net"
check "a VF without a GUID is not active" says 'lid 0 .*state INIT' rdma link show mlx5_4/1

section "VF administration"
check "set GUIDs" set_guid ib0 3 02:00:00:00:00:00:00:04
check "the PF reports them" \
	says 'NODE_GUID 02:00:00:00:00:00:00:04, PORT_GUID 02:00:00:00:00:00:00:04' ip link show ib0
check "not applied before a rebind" is 0000:0000:0000:0000 cat "$(vf 3)/infiniband/mlx5_4/node_guid"
check "rebind" rebind 3
check "GUID applied to the RDMA device" is 0200:0000:0000:0004 cat "$(vf 3)/infiniband/mlx5_4/node_guid"
check "GUID applied to the netdev" says '02:00:00:00:00:00:00:04$' cat "$(vf 3)/net/ib4/address"
check "active after the rebind" says 'lid 6 .*state ACTIVE' rdma link show mlx5_4/1
ip link set ib0 vf 3 state disable
check "state disable takes the port down" says 'state DOWN physical_state POLLING' rdma link show mlx5_4/1
check "state disable is reported" says 'link-state disable' ip link show ib0
ip link set ib0 vf 3 state auto
check "state auto follows the PF" says 'state ACTIVE' rdma link show mlx5_4/1
refuse "a VF that is not there" ip link set ib0 vf 12 state auto
refuse "VF administration through a VF" ip link set ib1 vf 0 state auto
for v in 0 1 2; do
	set_guid ib0 $v 02:00:00:00:00:00:00:0$((v + 1))
	rebind $v
done

section "IPoIB"
add_netns A B C
ip link set ib1 netns A
ip link set ib2 netns B
up A ib1 172.91.0.101/16
up B ib2 172.91.0.102/16
ip addr add 172.91.0.10/16 dev ib0
ip link set ib0 up
check "carrier in A" eventually running A ib1
check "carrier in B" eventually running B ib2
check "MTU 2044" says 'mtu 2044' ip -n A link show ib1
check "ping VF to VF" eventually pings A 172.91.0.102
check "ping VF to PF" eventually pings A 172.91.0.10
check "2016 bytes unfragmented" ip netns exec A ping -c 1 -M do -s 2016 172.91.0.102
check "IPv6 link local" eventually ip netns exec A ping -6 -c 1 fe80::200:0:0:2%ib1
ip link add link ib0 name c0 type ipoib pkey 0x8001
ip link set c0 netns C
up C c0 10.1.0.1/24
ip -n A link add link ib1 name c1 type ipoib pkey 0x8001
up A c1 10.1.0.2/24
ip -n B link add link ib2 name c2 type ipoib pkey 0x8002
up B c2 10.1.0.3/24
check "children of one partition talk" eventually pings C 10.1.0.2
check "children of two partitions do not talk" not ip netns exec C ping -c 2 -i 0.2 -W 1 10.1.0.3
write 0xffff "$(vf 0)/vhca_pkeys"
check "P_Key taken away: no carrier" eventually not running A c1
write '0xffff 0x8001' "$(vf 0)/vhca_pkeys"
check "P_Key given back: talks" eventually pings C 10.1.0.2
write 0 $PF/vhca_cable
check "cable out: no carrier" eventually not running A ib1
write 1 $PF/vhca_cable
check "cable in: talks" eventually pings A 172.91.0.102

tcp() { # 5 MB from A to B; the server needs an open standard input
	rm -f /tmp/received
	sleep 30 | ip netns exec B timeout 30 nc -l -p 5001 > /tmp/received &
	sleep 0.3
	head -c 5000000 /dev/zero | ip netns exec A timeout 25 nc -w 5 172.91.0.102 5001 &
	patiently is 5000000 stat -c %s /tmp/received
	local status=$?
	kill $(jobs -p) 2> /dev/null
	return $status
}
check "TCP in datagram mode" tcp
for n in A:ib1 B:ib2; do
	ip netns exec ${n%:*} sh -c "echo connected > /sys/class/net/${n#*:}/mode"
	ip -n ${n%:*} link set ${n#*:} mtu 65520
done
check "connected mode: 60000 bytes in one packet" eventually ip netns exec A ping -c 1 -W 2 -M do -s 60000 172.91.0.102
check "TCP in connected mode" tcp

section "verbs, shared mode"
verbs() { # verbs PROGRAM [OPTIONS]: between VF 0 and VF 1
	server_client "$1 -d mlx5_1 $2" "$1 -d mlx5_2 $2 127.0.0.1"
}
check "ibv_devinfo" says 'sm_lid: +1|sm_lid:\s+1' ibv_devinfo -d mlx5_1
check "RC ping-pong" verbs ibv_rc_pingpong
check "RC ping-pong with events" verbs ibv_rc_pingpong -e
check "UC ping-pong" verbs ibv_uc_pingpong
check "UD ping-pong" verbs ibv_ud_pingpong
check "SRQ ping-pong" verbs ibv_srq_pingpong
for p in ib_read_lat ib_write_lat ib_write_bw ib_send_bw; do
	check "$p" verbs $p "-n 200"
done
check "ib_send_lat, UD" verbs ib_send_lat "-n 200 -c UD"
check "rping by rdma_cm" server_client \
	"ip netns exec A rping -s -C 5 -a 172.91.0.101" "ip netns exec B rping -c -C 5 -a 172.91.0.101"
check "ib_read_lat by rdma_cm" server_client \
	"ip netns exec A ib_read_lat -R -n 100" "ip netns exec B ib_read_lat -R -n 100 172.91.0.101"
write 0x8001 "$(vf 0)/vhca_pkeys"
write 0x8002 "$(vf 1)/vhca_pkeys"
ibv_rc_pingpong -d mlx5_1 > /dev/null 2>&1 &
server=$!
sleep 1
check "no RC between two partitions" says 'Failed status transport retry counter exceeded' ibv_rc_pingpong -d mlx5_2 127.0.0.1
kill $server
for v in 0 1; do write '0xffff 0x8001 0x8002' "$(vf $v)/vhca_pkeys"; done

section "verbs, exclusive mode"
del_netns A B C
check "switch to exclusive mode" eventually rdma system set netns exclusive
add_netns A B
for v in 2:A:103 3:B:104; do
	IFS=: read -r n ns host <<< $v
	check "move mlx5_$((n + 1)) to $ns" rdma dev set mlx5_$((n + 1)) netns $ns
	ip link set "$(netdev "$(vf $n)")" netns $ns name net1
	up $ns net1 172.91.0.$host/16
done
check "IPoIB from A to the PF" eventually pings A 172.91.0.10
check "IPoIB from B to A" eventually pings B 172.91.0.103
check "RC within A" server_client \
	"ip netns exec A ibv_rc_pingpong" "ip netns exec A ibv_rc_pingpong 127.0.0.1"
check "rping from B to A" server_client \
	"ip netns exec A rping -s -C 5 -a 172.91.0.103" "ip netns exec B rping -c -C 5 -a 172.91.0.103"
check "ib_read_lat from B to A" server_client \
	"ip netns exec A ib_read_lat -n 100" "ip netns exec B ib_read_lat -n 100 172.91.0.103"
ip netns exec A ibv_rc_pingpong > /dev/null 2>&1 &
user=$!
sleep 0.5
ln -sf /proc/1/ns/net /run/netns/host
check "taken back while a process has queues mapped" ip netns exec A rdma dev set mlx5_3 netns host
kill $user
wait $user 2> /dev/null
check "it is home" rdma dev show mlx5_3
rm /run/netns/host
del_netns A B

section "life cycle"
check "no VFs" write 0 $PF/sriov_numvfs
check "one RDMA device left" is 1 sh -c 'rdma dev | wc -l'
check "16 VFs and none, again and again" sh -c \
	"for i in 1 2; do echo 16 > $PF/sriov_numvfs && echo 0 > $PF/sriov_numvfs || exit; done"
check "unload" rmmod vhca
check "no card left" is 0 sh -c 'lspci -nn | grep -c 15b3'

section "GUIDs at once"
modprobe vhca guid_apply=now
write 1 $PF/sriov_numvfs
set_guid "$(netdev $PF)" 0 02:00:00:00:00:00:00:01
check "guid_apply=now needs no rebind" eventually grep -q ACTIVE "$(vf 0)"/infiniband/*/ports/1/state
rmmod vhca

section "two cards"
two_cards() {
	modprobe vhca cards=2 total_vfs=4 sm_lid=2 "$@"
	add_netns A
	rdma dev set mlx5_1 netns A
	ip addr add 172.91.0.10/16 dev "$(netdev $PF)"
	ip link set "$(netdev $PF)" up
	ip link set "$(netdev /sys/bus/pci/devices/0000:87:00.0)" netns A name ibs6f0
	up A ibs6f0 172.91.0.11/16
	eventually running A ibs6f0
}
check "two cards on one fabric" two_cards
check "the second card" says '87:00.0 Infiniband' lspci -nn
check "its PF has the next LID after the first card's VFs" says 'mlx5_1/1 .* lid 7 sm_lid 2 ' ip netns exec A rdma link
check "a port that shares the subnet manager's LID" says 'mlx5_0/1 .* lid 2 sm_lid 2 ' rdma link
check "they talk" eventually pings A 172.91.0.10
check "rping to the port with the subnet manager's LID" server_client \
	"rping -s -C 5 -a 172.91.0.10" "ip netns exec A rping -c -C 5 -a 172.91.0.10"
del_netns A
eventually rdma dev show mlx5_1 > /dev/null 2>&1
rmmod vhca
check "two cards on two fabrics" two_cards fabrics=2
check "they do not talk" not pings A 172.91.0.10
del_netns A
eventually rdma dev show mlx5_1 > /dev/null 2>&1
check "unload two cards" rmmod vhca
check "the kernel log is clean" not kernel_complaints
end

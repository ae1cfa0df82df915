# SPDX-License-Identifier: GPL-2.0

# Two machines on one fabric, prepared as the guide's two nodes: exclusive mode,
# 12 VFs with GUIDs from the start, one in a "pod" each, an IPoIB child in another.
. /root/lib.sh
node=$CHECK_node
peer=$((3 - node))
reach() { touch "/host/$1.$node"; }
reached() { repeat 600 [ -e "/host/$1.$peer" ]; } # the other machine has come so far
meet() { reach "$1" && reached "$1"; }
inP() { ip netns exec P "$@"; }

modprobe ib_core netns_mode=0
check "exclusive mode by module option" says 'netns exclusive' rdma system
modprobe virtio_net
eventually ip link set eth0 mtu 20000 up
load_stack
case $node in
1) check "load" modprobe vhca link=eth0 sm_lid=2 lid_base=2 ;;
2) check "load" modprobe vhca link=eth0 sm_lid=2 sm=0 lid_base=32 guid_base=0xe8ebd3030093af10 ;;
esac
ip link set ib0 name ibs5f0
ip link property add dev ibs5f0 altname ibp134s0f0
ip addr add 172.91.0.${node}0/16 dev ibs5f0
ip link set ibs5f0 up
check "PF port" says "lid $((node == 1 ? 2 : 32)) sm_lid 2 lmc 0 state ACTIVE" rdma link
check "PF address has the GUID" \
	says "e8:eb:d3:03:00:93:a$([ $node = 1 ] && echo e || echo f):10\$" cat /sys/class/net/ibs5f0/address

agent_makes_vfs() {
	write 0 $PF/sriov_drivers_autoprobe
	write 12 $PF/sriov_numvfs || return
	for v in $(seq 0 11); do
		set_guid ibs5f0 $v 02:00:00:00:00:0$node:00:$(printf %02x $v) || return
	done
	write 1 $PF/sriov_drivers_autoprobe
	for v in $(seq 0 11); do
		write "$(pci $v)" /sys/bus/pci/drivers_probe || return
		ip link set ibs5f0 vf $v state auto || return
	done
	[ "$(rdma link | grep -c ACTIVE)" = 13 ]
}
check "12 VFs, all active" agent_makes_vfs
add_netns P Q
check "RDMA device into the pod" rdma dev set mlx5_1 netns P
ip link set "$(netdev "$(vf 0)")" netns P name eth0
up P eth0 172.91.0.10$node/16
ip link add link ibs5f0 name net1 type ipoib
ip link set net1 addrgenmode none
ip link set net1 netns Q name eth0
up Q eth0 172.91.0.11$node/16
check "carrier in the pods" eventually running P eth0
check "peer is up" meet up

check "ping PF to PF" eventually ping -c 2 -i 0.3 -W 3 172.91.0.${peer}0
check "ping pod to pod" eventually inP ping -c 3 -i 0.3 -W 3 172.91.0.10$peer
check "ping IPoIB child to IPoIB child" eventually ip netns exec Q ping -c 3 -i 0.3 -W 3 172.91.0.11$peer
check "ping IPoIB child to pod" eventually ip netns exec Q ping -c 3 -i 0.3 -W 3 172.91.0.10$peer
meet pinged

# Node 1 serves, node 2 connects: both ends must say that all went well.
across() { # across NAME SERVER CLIENT: in P, both command lines get node 1's address for ADDRESS
	local key=${1//[^a-z_]/}
	if [ $node = 1 ]; then
		reach "serving$key"
		check "$1" inP timeout 90 ${2//ADDRESS/172.91.0.101}
	else
		reached "serving$key"
		check "$1" client ip netns exec P ${3//ADDRESS/172.91.0.101}
	fi
	meet "done$key"
}
perftest() { # perftest NAME COMMAND: the same line on both sides
	across "$1" "$2" "$2 ADDRESS"
}
perftest "ib_read_lat, as the guide runs it" "ib_read_lat"
perftest "ib_write_lat" "ib_write_lat -F -n 200"
perftest "ib_send_lat" "ib_send_lat -F -n 200"
perftest "ib_read_bw" "ib_read_bw -F -n 50"
perftest "ib_write_bw" "ib_write_bw -F -n 50"
perftest "ib_send_bw" "ib_send_bw -F -n 50"
perftest "ib_read_lat by rdma_cm" "ib_read_lat -F -R -n 50"
perftest "RC ping-pong with events" "ibv_rc_pingpong -e"
across "rping" "rping -s -C 5 -a ADDRESS" "rping -c -C 5 -a ADDRESS"
write 7 /sys/module/vhca/parameters/link_drop_every
perftest "ib_write_bw with every seventh frame lost" "ib_write_bw -F -n 20"
write 0 /sys/module/vhca/parameters/link_drop_every

if [ $node = 1 ]; then
	sleep 60 | inP timeout 60 nc -l -p 5001 > /tmp/received &
	sleep 0.3
	meet tcp
	check "TCP from peer to pod" patiently is 10000000 stat -c %s /tmp/received
else
	meet tcp
	head -c 10000000 /dev/zero | inP timeout 40 nc -w 3 172.91.0.101 5001 &
fi
meet end
kill $(jobs -p) 2> /dev/null
del_netns P Q
check "no VFs" eventually write 0 $PF/sriov_numvfs
check "unload" rmmod vhca
check "the kernel log is clean" not kernel_complaints
end

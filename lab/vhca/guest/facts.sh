# SPDX-License-Identifier: GPL-2.0

# What Debian's stock kernel does with InfiniBand devices and namespaces, as
# far as a node agent must know it. README.md, "Kernel facts", names each check.
. /root/lib.sh
modprobe ib_core
section "RDMA namespace mode"
add_netns A
refuse "mode change while another netns exists" rdma system set netns exclusive
check "its errno is EBUSY" says 'busy' rdma system set netns exclusive
del_netns A
check "mode change while there is none" eventually rdma system set netns exclusive
load_stack
modprobe vhca pkeys=0xffff,0x8001
ip link set ib0 name ibs5f0
check "altname" ip link property add dev ibs5f0 altname ibp134s0f0

section "VFs with their GUIDs from the start"
write 0 $PF/sriov_drivers_autoprobe
check "12 VFs without a driver" write 12 $PF/sriov_numvfs
check "none has an RDMA device" is 1 sh -c 'rdma dev | wc -l'
for v in $(seq 0 11); do
	set_guid ibs5f0 $v 02:00:00:00:00:00:01:$(printf %02x $v) || echo "set_guid $v failed"
done
check "the PF reports the GUID of an unbound VF" says 'vf 11 .*PORT_GUID 02:00:00:00:00:00:01:0b' ip link show ibs5f0
check "autoprobe off: drivers_probe says nothing" write "$(pci 0)" /sys/bus/pci/drivers_probe
check "autoprobe off: drivers_probe does nothing" [ ! -e "$(vf 0)/driver" ]
refuse "autoprobe off: bind is refused" write "$(pci 0)" $DRIVER/bind
check "autoprobe off: bind says ENODEV" says 'No such device' bash -c "echo $(pci 0) > $DRIVER/bind"
write mlx5_core "$(vf 0)/driver_override"
write "$(pci 0)" /sys/bus/pci/drivers_probe
check "autoprobe off: driver_override opens the way" [ -e "$(vf 0)/driver" ]
write '' "$(vf 0)/driver_override"
write 1 $PF/sriov_drivers_autoprobe
check "autoprobe on again binds nothing by itself" [ ! -e "$(vf 1)/driver" ]
for v in $(seq 1 11); do write "$(pci $v)" /sys/bus/pci/drivers_probe; done
check "drivers_probe binds then" [ -e "$(vf 11)/driver" ]
check "and does no harm to a bound VF" write "$(pci 11)" /sys/bus/pci/drivers_probe
check "RDMA device has the GUID" is 0200:0000:0000:010b cat "$(vf 11)/infiniband/mlx5_12/node_guid"
check "netdev has the GUID" says '02:00:00:00:00:00:01:0b$' cat "$(vf 11)/net/$(netdev "$(vf 11)")/address"
check "port is active" says 'state ACTIVE' rdma link show mlx5_12/1
ip link set ibs5f0 vf 11 state disable
ip link set ibs5f0 vf 11 state enable
check "state enable" says 'state ACTIVE' rdma link show mlx5_12/1
check "state auto" ip link set ibs5f0 vf 11 state auto

section "moving an RDMA device"
add_netns A B
V=$(vf 2)
ip link set "$(netdev "$V")" netns A name early
check "mode change back while another netns exists is EBUSY too" says busy rdma system set netns shared
index() { rdma dev show mlx5_3 | cut -d: -f1; }
before=$(index)
check "an RDMA device moves to A" rdma dev set mlx5_3 netns A
check "it keeps its index" is "$before" ip netns exec A bash -c "$(declare -f index); index"
check "the first netns sees it no more" not rdma dev show mlx5_3
check "its netdev is gone from A" is '' ip -n A -br link show type ipoib
check "and made anew in the first netns, lowest free name" is ib2 ls "$V/net"
check "A sees it alone" is mlx5_3 ip netns exec A ls /sys/class/infiniband
ip link set ib2 netns A name eth0
up A eth0 172.91.0.3/16
check "netdev in A has carrier" eventually running A eth0

section "uverbs"
check "first netns: PCI device's infiniband is empty" is '' ls "$V/infiniband"
check "first netns: PCI device's net is empty" is '' ls "$V/net"
check "first netns: PCI device's infiniband_verbs tells uverbsN" is uverbs3 ls "$V/infiniband_verbs"
check "first netns: PCI device's infiniband_mad tells umadN" says umad3 ls "$V/infiniband_mad"
check "first netns: class infiniband_verbs tells it too" is mlx5_3 cat /sys/class/infiniband_verbs/uverbs3/ibdev
check "A: class infiniband_verbs shows every device" is mlx5_0 ip netns exec A cat /sys/class/infiniband_verbs/uverbs0/ibdev
check "A: PCI device's infiniband tells its own" is mlx5_3 ip netns exec A ls "$V/infiniband"
opens() { bash -c "exec 3<>/dev/infiniband/$1"; }
check "uverbs opens in its netns" ip netns exec A bash -c 'exec 3<>/dev/infiniband/uverbs3'
refuse "uverbs opens in the first netns" opens uverbs3
refuse "uverbs opens in another netns" ip netns exec B bash -c 'exec 3<>/dev/infiniband/uverbs3'
check "there its errno is EPERM" says 'not permitted' ip netns exec B bash -c 'exec 3<>/dev/infiniband/uverbs3'
refuse "uverbs of the PF opens in A" ip netns exec A bash -c 'exec 3<>/dev/infiniband/uverbs0'
pci 0 > $DRIVER/unbind
before=$(uverbs mlx5_5)
check "an RDMA device moves while a lower uverbsN is free" rdma dev set mlx5_5 netns B
check "its uverbsN changes to the lowest free" is "uverbs5 uverbs1" echo "$before $(uverbs mlx5_5)"
pci 0 > $DRIVER/bind
check "a rebound VF takes the lowest free name" is mlx5_1 ls "$(vf 0)/infiniband"
check "and the uverbsN that is free now" is uverbs5 ls "$(vf 0)/infiniband_verbs"

section "death of a netns"
ip link add link ibs5f0 name net1 type ipoib
ip link set net1 netns A
ip link add link ibs5f0 name net2 type ipoib
ip link set net2 netns A
child=$(ip netns exec A cat /sys/class/net/net2/ifindex)
ip link add link ibs5f0 name net2 type ipoib
del_netns A B
check "RDMA device comes home under its name" eventually rdma dev show mlx5_3
check "its netdev anew as ibN, not as it was called" eventually says '^ib[0-9]+$' ls "$V/net"
check "child left on the host under its name" eventually ip link show net1
check "child left on the host as devN where its name is taken" eventually ip link show "dev$child"
check "child is down" says 'state DOWN' ip link show "dev$child"
for i in net1 net2 dev$child; do ip link del $i; done
add_netns A
rdma dev set mlx5_3 netns A
ip netns exec A rdma dev set mlx5_3 name other0
refuse "the first netns taking a name in use in another" rdma dev set mlx5_2 name other0
del_netns A
check "RDMA device renamed in a netns comes home so" eventually rdma dev show other0
rdma dev set other0 name mlx5_3
add_netns A
n=$(netdev "$V")
ip link set "$n" netns A name eth0
del_netns A
check "VF netdev alone in a netns comes home under its name there" eventually is eth0 ls "$V/net"
ip link set eth0 name "$n"

section "IPoIB children"
check "child with the parent's P_Key, none given" ip link add link ibs5f0 name k1 type ipoib
check "child with the parent's P_Key, given" ip link add link ibs5f0 name k2 type ipoib pkey 0xffff mode datagram
ip link set k2 addrgenmode none
check "the P_Key is the parent's" says 'ipoib pkey +0xffff' ip -d link show k1
check "child has no device link" [ ! -e /sys/class/net/k1/device ]
check "child names its parent by iflink" is "$(cat /sys/class/net/ibs5f0/ifindex)" cat /sys/class/net/k1/iflink
add_netns A B
check "child made straight in a netns" ip link add link ibs5f0 name net1 netns A type ipoib
ip -n A link set net1 addrgenmode none
up A net1 10.1.0.1/24
ip link set k1 addrgenmode none
check "child moved to a netns" ip link set k1 netns B name net1
up B net1 10.1.0.2/24
check "children of one parent talk, the parent being down" eventually pings A 10.1.0.2
check "addrgenmode none: no link local address" is '' ip -n A -6 addr show net1
ip link set ibs5f0 up
ip addr add 10.1.0.9/24 dev ibs5f0
check "child talks to its parent" eventually pings A 10.1.0.9
ip link add link ibs5f0 name k3 type ipoib
check "child of a parent that is up is down at first" not says '[<,]UP' ip link show k3
ip link set k3 up
# Whether duplicate address detection notices depends on when the multicast groups were joined, so that is not a check.
check "without addrgenmode none its link local address is its parent's" eventually says fe80::eaeb:d303:93:ae10 ip -6 addr show k3
ip link set ibs5f0 down
check "parent down takes children in other netns down" not says '[<,]UP' ip -n A link show net1
ip link set ibs5f0 up
check "parent up takes them up" says '[<,]UP' ip -n A link show net1
check "and they talk again" eventually pings A 10.1.0.2
ip link del k3
ip link del k2
ip link set ibs5f0 down
ip link add link ibs5f0 name k4 type ipoib
old=$(cat /sys/class/net/k4/address)
new=${old%:??:??:??:??:??:??:??:??}:02:00:00:00:00:00:00:99
ip link set k4 up
check "child's address while it is up: EBUSY" says busy ip link set k4 address "$new"
ip link set k4 down
check "another QPN in child's address: EINVAL" says 'Invalid argument' ip link set k4 address "80:00:00:01:${old#??:??:??:??:}"
check "another GUID in child's address while down" ip link set k4 address "$new"
ip link set k4 up
sleep 1
check "but then it has no carrier" says NO-CARRIER ip link show k4
ip link set k4 down
ip link set k4 address "$old"
ip link set k4 up
check "carrier again with the old GUID" eventually says LOWER_UP ip link show k4
ip link del k4
ip link set ibs5f0 up
rdma dev set mlx5_2 netns A
ip link set "$(netdev "$(vf 1)")" netns A name p1
ip -n A link add link p1 name p1c type ipoib
rdma dev set mlx5_2 netns A 2> /dev/null
check "child dies with its parent's move" sh -c "ln -sf /proc/1/ns/net /run/netns/host; ip netns exec A rdma dev set mlx5_2 netns host && ! ip -n A link show p1c"
rm -f /run/netns/host
del_netns A B
write 0 $PF/sriov_numvfs
check "unload with children left behind" rmmod vhca
check "the kernel log is clean" not kernel_complaints
end

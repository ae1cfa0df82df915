# SPDX-License-Identifier: GPL-2.0

# Endurance: traffic on two VFs while other VFs are rebound, children made and
# dropped, and link states and GUIDs changed beside them.
. /root/lib.sh
seconds=60
modprobe ib_core netns_mode=1
load_stack
modprobe vhca vf_guid=auto pkeys=0xffff,0x8001
write 6 $PF/sriov_numvfs
add_netns A B
ip link set ib1 netns A
ip link set ib2 netns B
up A ib1 172.91.0.101/16
up B ib2 172.91.0.102/16
ip link set ib0 up
check "carrier" eventually pings A 172.91.0.102

stop=$(($(date +%s) + seconds))
goes_on() { [ "$(date +%s)" -lt $stop ]; }
rebinding() {
	while goes_on; do
		rebind 3 && rebind 4 || return
	done
}
breeding() {
	local n=0
	while goes_on; do
		ip link add link ib0 name s$n type ipoib pkey 0x8001 && ip link set s$n up || return
		sleep 0.1
		ip link del s$n || return
		n=$((n + 1))
	done
}
flipping() {
	while goes_on; do
		ip link set ib0 vf 5 state disable && ip link set ib0 vf 5 state auto &&
			ip link set ib0 vf 4 node_guid 02:00:00:00:00:00:00:05 || return
		sleep 0.05
	done
}
rebinding & rebinder=$!
breeding & breeder=$!
flipping & flipper=$!
ip netns exec A ping -q -i 0.01 -w $((seconds - 2)) 172.91.0.102 > /tmp/pings 2>&1 & pinger=$!

rounds=0
failed=0
round() { "$@" > /tmp/round 2>&1 || { failed=$((failed + 1)); cat /tmp/round; }; rounds=$((rounds + 1)); }
while goes_on; do
	for p in ib_read_lat ib_write_lat ib_send_lat ib_write_bw ib_read_bw; do
		round server_client "$p -d mlx5_1 -n 100" "$p -d mlx5_2 -n 100 127.0.0.1"
	done
	round server_client "ip netns exec A rping -s -C 3 -a 172.91.0.101" \
		"ip netns exec B rping -c -C 3 -a 172.91.0.101"
done
wait $rebinder; report $? "VFs rebound all the time"
wait $breeder; report $? "children made and dropped all the time"
wait $flipper; report $? "link states changed all the time"
wait $pinger
check "no ping lost" says ' 0% packet loss' cat /tmp/pings
check "no verbs run failed of $rounds" [ $failed = 0 ]
del_netns A B
check "unload" rmmod vhca
check "the kernel log is clean" not kernel_complaints
end

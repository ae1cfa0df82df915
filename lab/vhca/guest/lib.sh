# SPDX-License-Identifier: GPL-2.0

# Sourced by the scripts here: how a check is made and reported. Each check
# prints one line, "PASS name" or "FAIL name :: what the command said"; end
# prints how many there were, so that a lost line is noticed.

checks=0
PF=/sys/bus/pci/devices/0000:86:00.0
DRIVER=/sys/bus/pci/drivers/mlx5_core

report() { # report STATUS NAME: STATUS 0 is a pass
	checks=$((checks + 1))
	if [ "$1" = 0 ]; then
		echo "PASS $2"
	else
		echo "FAIL $2 :: $(tail -n 3 /tmp/said | tr '\n' ' ')"
	fi
}
check() { # check NAME COMMAND...: the command succeeds
	local name=$1
	shift
	"$@" > /tmp/said 2>&1
	report $? "$name"
}
refuse() { # refuse NAME COMMAND...: the command fails
	local name=$1
	shift
	! "$@" > /tmp/said 2>&1
	report $? "refused: $name"
}
section() { echo "--- $1 ($(cut -d' ' -f1 /proc/uptime) s after boot)"; }
end() {
	section "end"
	echo "END $checks"
}

# Conditions for check and refuse.
says() { # says REGEXP COMMAND...: its output matches
	local want=$1
	shift
	"$@" > /tmp/output 2>&1
	cat /tmp/output
	grep -Eq -- "$want" /tmp/output
}
repeat() { # repeat TENTHS COMMAND...: it succeeds within so many tenths of a second
	local tenths=$1
	shift
	for _ in $(seq "$tenths"); do
		"$@" && return 0
		sleep 0.1
	done
	return 1
}
eventually() { repeat 50 "$@"; }
patiently() { repeat 300 "$@"; }
not() { ! "$@"; }
is() { # is WANT COMMAND...: its output is exactly that
	local want=$1 got
	shift
	got=$("$@" 2>&1)
	echo "want '$want', got '$got'"
	[ "$got" = "$want" ]
}
write() { echo "$1" > "$2"; } # write TEXT FILE
# A client that comes before its server listens is refused, and no harm done:
# try again. A server takes one client only, so that a client which fails later
# does not get a second chance.
client() { # client COMMAND...
	for _ in $(seq 20); do
		timeout 40 "$@" && return 0
		sleep 0.5
	done
	return 1
}
server_client() { # server_client SERVER CLIENT: both command lines succeed
	local pid
	timeout 90 $1 > /tmp/server 2>&1 &
	pid=$!
	sleep 0.3
	client $2 || { kill $pid; cat /tmp/server; return 1; }
	wait $pid
}

# The machine.
load_stack() {
	for m in ib_core ib_uverbs ib_umad rdma_ucm ib_ipoib; do modprobe $m; done
}
pci() { printf '0000:86:%02x.%x' $((($1 + 1) / 8)) $((($1 + 1) % 8)); } # address of VF number $1
vf() { echo "/sys/bus/pci/devices/$(pci "$1")"; }
netdev() { ls "$1/net"; } # netdev DEVICE: its name in this netns
rebind() { pci "$1" > $DRIVER/unbind && pci "$1" > $DRIVER/bind; }
set_guid() { # set_guid PFNETDEV VF GUID
	ip link set "$1" vf "$2" node_guid "$3" && ip link set "$1" vf "$2" port_guid "$3"
}
up() { # up NETNS NETDEV ADDRESS
	ip -n "$1" addr add "$3" dev "$2" && ip -n "$1" link set "$2" up
}
add_netns() { for n in "$@"; do ip netns add $n && ip -n $n link set lo up; done; }
del_netns() { for n in "$@"; do ip netns del $n; done; }
running() { says LOWER_UP ip -n "$1" link show "$2"; }
pings() { ip netns exec "$1" ping -c 2 -i 0.2 -W 2 "$2"; }
uverbs() { basename "$(grep -lx "$1" /sys/class/infiniband_verbs/*/ibdev | xargs dirname)"; } # of an RDMA device
# The one warning that is not ours: rdmavt copies a whole work request over its
# first member, which FORTIFY reports once per boot.
kernel_complaints() {
	dmesg | grep -E 'BUG:|WARNING:|leak|still in use|refcount|Oops|rcu.*stall' | grep -v rdmavt
}

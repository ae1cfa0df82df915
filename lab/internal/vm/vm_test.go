// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"spidernet.io/spiderpool/lab/internal/topology"
)

func config() Config {
	return Config{
		Node: topology.Nodes()[1], Kernel: "/c/vmlinuz", Initramfs: "/c/initramfs", Disk: "/c/disk", Store: "/c/store",
		Seed: "/s/seed.tar", Run: "/s/run", Log: "/s/log", MemoryMiB: 1024, CPUs: 1,
	}
}

// after returns what follows an option.
func after(args []string, option string) (values []string) {
	for i, a := range args[:len(args)-1] {
		if a == option {
			values = append(values, args[i+1])
		}
	}
	return values
}

func TestArgs(t *testing.T) {
	args := Args(config())
	if got := after(args, "-accel"); len(got) != 1 || !strings.HasPrefix(got[0], "tcg,") {
		t.Errorf("acceleration is %v", got)
	}
	// The machine's boot script finds the disks by this order.
	drives := after(args, "-drive")
	for i, file := range []string{"/c/disk", "/s/seed.tar", "/c/store"} {
		if !strings.HasPrefix(drives[i], "file="+file+",") {
			t.Errorf("drive %d is %s, want %s", i, drives[i], file)
		}
	}
	for _, shared := range []int{0, 2} {
		if !strings.Contains(drives[shared], "snapshot=on") {
			t.Errorf("drive %d would write into the cache: %s", shared, drives[shared])
		}
	}
	if got := after(args, "-netdev"); !strings.Contains(got[0], "ifname=tap1n") || !strings.Contains(got[1],
		"ifname=tap1o") {
		t.Errorf("network devices are %v", got)
	}
	if got := after(args, "-append"); !strings.Contains(got[0], "clocksource=tsc") {
		t.Errorf("kernel arguments are %v; perftest needs the TSC", got)
	}
}

func TestArgsWithKVM(t *testing.T) {
	c := config()
	c.KVM = true
	if got := after(Args(c), "-accel"); !slices.Equal(got, []string{"kvm"}) {
		t.Errorf("acceleration is %v", got)
	}
}

// monitor plays QEMU's side: a greeting, and for each command an event and then the given answer.
func monitor(_ *testing.T, conn net.Conn, answer string) <-chan []string {
	commands := make(chan []string, 1)
	go func() {
		defer conn.Close()
		var got []string
		fmt.Fprintln(conn, `{"QMP":{"version":{},"capabilities":[]}}`)
		for dec := json.NewDecoder(conn); ; {
			var c struct{ Execute string }
			if dec.Decode(&c) != nil {
				commands <- got
				return
			}
			got = append(got, c.Execute)
			fmt.Fprintln(conn, `{"event":"RESET","data":{}}`)
			fmt.Fprintln(conn, answer)
		}
	}()
	return commands
}

func TestConverse(t *testing.T) {
	near, far := net.Pipe()
	commands := monitor(t, far, `{"return":{}}`)
	if err := converse(near, json.NewDecoder(near), "stop"); err != nil {
		t.Fatal(err)
	}
	near.Close()
	if got := <-commands; !slices.Equal(got, []string{"qmp_capabilities", "stop"}) {
		t.Errorf("commands are %v", got)
	}
}

func TestConverseTellsARefusal(t *testing.T) {
	near, far := net.Pipe()
	monitor(t, far, `{"error":{"class":"GenericError","desc":"not now"}}`)
	if err := converse(near, json.NewDecoder(near), "stop"); err == nil || !strings.Contains(err.Error(), "not now") {
		t.Errorf("error is %v", err)
	}
	near.Close()
}

// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"spidernet.io/spiderpool/lab/internal/topology"
)

// received matches ping's last lines.
var received = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)

// pinging has a pod ask an address again and again, from the first answer on, until the function
// that it returns is called, which tells how many packets there were and how many came back.
func pinging(t *testing.T, pod, address string) (stop func() (sent, back int)) {
	t.Helper()
	ping := func(ctx context.Context, count int) (string, error) {
		return term.Shell(ctx, fmt.Sprintf("kubectl -n e2e exec %s -- ping -q -i 0.2 -c %d -W 5 %s", pod, count,
			address))
	}
	eventually(t, podLimit, func() string {
		if out, err := ping(t.Context(), 1); err != nil {
			return out
		}
		return ""
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	var sent, back int
	running.Go(func() {
		for ctx.Err() == nil {
			out, err := ping(context.WithoutCancel(ctx), 25) // an error is packets that are lost
			count := received.FindStringSubmatch(out)
			if count == nil {
				t.Errorf("ping of %s: %v\n%s", address, err, out)
				return
			}
			s, _ := strconv.Atoi(count[1])
			b, _ := strconv.Atoi(count[2])
			sent, back = sent+s, back+b
		}
	})
	end := func() (int, int) {
		cancel()
		running.Wait()
		return sent, back
	}
	t.Cleanup(func() { end() })
	return end
}

// TestRunningPods has the agent killed, and replaced, beside pods whose traffic goes on; has other
// software on the node take away the node's routes to its pods, which come back; and resets the
// driver of a running pod's function, of which the pod's owner is told.
func TestRunningPods(t *testing.T) {
	sriovSetup(t)
	here, there := topology.Names()[0], topology.Names()[1]
	apply(t, sriovPolicy("e2e-low", 2, 0, 1))
	eventually(t, configureLimit, func() string {
		return differs("allocatable", offered(t, lowVFs),
			every("2", lowVFs))
	})
	before := remember(t)
	apply(t, sriovPod("stays", here)+sriovPod("peer", there))
	shell(t, "kubectl -n e2e wait --for=condition=Ready --timeout=400s pod/stays pod/peer")
	address := func(pod string) string {
		return strings.TrimSpace(shell(t, "kubectl -n e2e get pod "+pod+" -o jsonpath='{.status.podIP}'"))
	}
	stays, peer := address("stays"), address("peer")

	traffic := pinging(t, "stays", peer)
	const take = "ip route flush table 500; while ip rule del table 500 2>/dev/null; do :; done"
	reaches := func() string {
		if out, err := term.Node(t.Context(), here, "ping -c 1 -W 3 "+stays); err != nil {
			return "the node does not reach its pod: " + out
		}
		return ""
	}
	eventually(t, podLimit, reaches)
	node(t, here, take)
	if reaches() == "" {
		t.Error("the node reaches its pod without its routes: this test shows nothing")
	}
	restartAgent(t, here) // which looks at all that is attached when it starts, and then every five minutes
	eventually(t, podLimit, reaches)
	sent, back := traffic()
	t.Logf("%d of %d packets came back while the agent was killed and replaced", back, sent)
	if sent < 25 || back*100 < sent*98 { // an emulated machine may be late with one or another
		t.Errorf("of %d packets %d came back", sent, back)
	}

	pci := strings.TrimSpace(shell(t, "kubectl -n e2e exec stays -- sh -c 'echo $PCIDEVICE_SPIDERNET_IO_E2E_LOW'"))
	node(t, here, fmt.Sprintf("cd /sys/bus/pci/devices/%[1]s/driver/ && echo %[1]s >unbind && echo %[1]s >bind", pci))
	restartAgent(t, here)
	eventually(t, podLimit, func() string {
		notes := shell(t,
			"kubectl -n e2e get events --field-selector involvedObject.name=stays,reason=AttachmentBroken -o "+
				"jsonpath='{.items[*].message}'")
		if !strings.Contains(notes, "network kube-system/e2e-low as eth0: plugin ib-sriov: ") ||
			!strings.Contains(notes, "VF "+pci) {
			return fmt.Sprintf("no event tells what the pod has lost: %q", notes)
		}
		return ""
	})
	shell(t, "kubectl -n e2e delete pod stays peer --timeout=300s")
	eventually(t, configureLimit, func() string { return differs("left behind", look(t), before) })
	eventually(t, configureLimit, func() string {
		return differs("allocatable", offered(t, lowVFs),
			every("2", lowVFs))
	})
}

// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"context"
	"encoding/json"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
)

// FuzzConf: whatever the configuration and the result before it, Add moves the device of an
// Ethernet VF that they name, in exclusive mode, or leaves it where it is and says why; and Del has
// it back.
func FuzzConf(f *testing.F) {
	good := `{"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/ns"}]}`
	f.Add(`{"cniVersion":"0.3.1","name":"sriov","type":"rdma","deviceID":"0000:01:00.2"}`, good,
		string(host.RDMAExclusive), string(host.Ethernet))
	f.Add(`{}`, good, string(host.RDMAExclusive), string(host.InfiniBand))
	f.Add(`{"deviceID":""}`, `{"interfaces":[{"name":"eth0","mac":"not one","sandbox":"/ns"},{"name":"lo"}]}`,
		string(host.RDMAExclusive), string(host.Ethernet))
	f.Add(`{"deviceID":"0000:01:00.3"}`, `{}`, string(host.RDMAShared), string(host.Ethernet))
	f.Add(`{"deviceID":7}`, `null`, "", "")
	f.Add(`null`, `{"interfaces":[{}]}`, string(host.RDMAExclusive), string(host.Ethernet))
	f.Fuzz(func(t *testing.T, conf, before, mode, layer string) {
		var prev *types100.Result
		if json.Unmarshal([]byte(before), &prev) != nil {
			return
		}
		if prev != nil {
			for _, i := range prev.Interfaces {
				if i == nil {
					return // the runner refuses it
				}
			}
		}
		k := &kernel{mode: host.RDMAMode(mode), layer: host.LinkLayer(layer)}
		p := &Plugin{Kernel: k}
		r := call(conf)
		r.Prev = prev
		res, err := p.Add(context.Background(), r)
		switch {
		case err != nil && (cni.Wire(err).Code == 0 || err.Error() == "" || k.at != host.NodeNS):
			t.Fatalf("%s after %s: %v; device in %q", conf, before, err, k.at)
		case err == nil && (res != prev || k.at != pod || k.mode != host.RDMAExclusive || k.layer == host.InfiniBand):
			t.Fatalf("%s after %s: moved in mode %q, layer %q, to %q", conf, before, mode, layer, k.at)
		case err == nil:
			if err := p.Check(context.Background(), r); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := p.Del(context.Background(), r); err != nil || k.at != host.NodeNS {
				t.Fatalf("%s: DEL: %v; device in %q", conf, err, k.at)
			}
		}
	})
}

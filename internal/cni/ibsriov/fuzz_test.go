// SPDX-License-Identifier: Apache-2.0

package ibsriov

import (
	"encoding/json"
	"errors"
	"testing"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

// FuzzParse: a configuration is refused with a code, or it names a PCI function in the kernel's
// form, a link state there is, and no GUID or one that may be one; and what was read is read the
// same when it is written anew.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"cniVersion":"0.3.1","name":"ib-sriov","type":"ib-sriov","link_state":"enable","rdmaIsolation":true,"ibKubernetesEnabled":false,"capabilities":{"infinibandGUID":true},` +
			`"ipam":{"type":"spiderpool","default_ipv4_ippool":["v4-91"]},"deviceID":"0000:86:00.1","pciBusID":"0000:86:00.1"}`,
		`{"deviceID":"0000:AF:00.7","runtimeConfig":{"infinibandGUID":"02:00:00:00:00:00:00:08","deviceID":"x"},"args":{"cni":{"guid":7}}}`,
		`{"deviceID":"0000:86:00.1","ibKubernetesEnabled":true,"args":{"cni":{"mellanox.infiniband.app":"configured","guid":"0x0200000000000008"}}}`,
		`{"runtimeConfig":{"deviceID":"0000:86:00.1"},"args":{"cni":{"guid":"ff:ff:ff:ff:ff:ff:ff:ff"}}}`,
		`{"deviceID":"../86:00.1","link_state":"up"}`, `{"deviceID":"0000:86:00.1","ipam":{"type":"dhcp"}}`,
		`{"args":{"cni":null}}`, `null`, `[]`, ``,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, conf string) {
		got, err := parse(call(conf))
		if err != nil {
			var refusal *cni.Error
			if !errors.As(err, &refusal) || refusal.Msg == "" || refusal.Code != cni.CodeDecode &&
				refusal.Code != cni.CodeInvalidConfig && refusal.Code != cni.CodeTryAgainLater {
				t.Fatalf("%s: %v", conf, err)
			}
			return
		}
		switch got.linkState {
		case "", host.VFAuto, host.VFEnable, host.VFDisable:
		default:
			t.Fatalf("%s: link state %q", conf, got.linkState)
		}
		if !ib.IsPCIAddress(got.pci) || !got.guid.IsZero() && !got.guid.Valid() {
			t.Fatalf("%s is taken for %+v", conf, got)
		}
		written := map[string]any{"deviceID": got.pci, "link_state": got.linkState, "rdmaIsolation": got.isolate}
		if !got.guid.IsZero() {
			written["runtimeConfig"] = map[string]string{"infinibandGUID": got.guid.String()}
		}
		text, err := json.Marshal(written)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(call(string(text)))
		if err != nil || again.pci != got.pci || again.linkState != got.linkState || again.guid != got.guid ||
			(again.isolate == nil) != (got.isolate == nil) ||
			got.isolate != nil && *again.isolate != *got.isolate {
			t.Fatalf("%s is read as %+v, and that as %+v, %v", conf, got, again, err)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package nad

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
)

func withArgs(args string) *cncfv1.NetworkSelectionElement {
	return &cncfv1.NetworkSelectionElement{Name: "n", CNIArgs: &runtime.RawExtension{Raw: []byte(args)}}
}

func TestConfigure(t *testing.T) {
	for _, tt := range []struct {
		name, config, device string
		selection            *cncfv1.NetworkSelectionElement
		want, err            string
	}{
		{
			name:   "list",
			config: `{"cniVersion":"0.3.1","name":"x","plugins":[{"type":"ib-sriov","big":12345678901234567890},{"type":"coordinator"}]}`, device: "0000:86:00.1",
			want: `{"cniVersion":"0.3.1","name":"x","plugins":[{"big":12345678901234567890,"deviceID":"0000:86:00.1","pciBusID":"0000:86:00.1","type":"ib-sriov"},{"deviceID":"0000:86:00.1","pciBusID":"0000:86:00.1","type":"coordinator"}]}`,
		},
		{
			name: "single, without a name", config: `{"cniVersion":"1.0.0","type":"ipoib"}`,
			want: `{"cniVersion":"1.0.0","name":"kube-system/n","plugins":[{"cniVersion":"1.0.0","type":"ipoib"}]}`,
		},
		{
			name:   "args win",
			config: `{"name":"x","plugins":[{"type":"a","args":{"other":1,"cni":{"guid":"old","kept":true}}},{"type":"b","args":null}]}`, selection: withArgs(`{"guid":"new"}`),
			want: `{"name":"x","plugins":[{"args":{"cni":{"guid":"new","kept":true},"other":1},"type":"a"},{"args":{"cni":{"guid":"new"}},"type":"b"}]}`,
		},
		{name: "the configuration's own device stays", config: `{"name":"x","plugins":[{"type":"a","deviceID":"d"}]}`,
			want: `{"name":"x","plugins":[{"deviceID":"d","type":"a"}]}`},

		{name: "not JSON", config: `{`, err: "CNI configuration of network kube-system/n: want a JSON object"},
		{name: "neither", config: `{"name":"x"}`, err: `it has neither "type" nor "plugins"`},
		{name: "null", config: `null`, err: `it has neither "type" nor "plugins"`},
		{name: "no plugins", config: `{"plugins":[]}`, err: `"plugins" is empty`},
		{name: "plugins no list", config: `{"plugins":{}}`, err: `"plugins": want a list of JSON objects`},
		{name: "plugin without type", config: `{"plugins":[{"type":"a"},{}]}`, err: `plugin 2 has no "type"`},
		{name: "args no object", config: `{"plugins":[{"type":"a","args":7}]}`, selection: withArgs(`{}`),
			err: `plugin 1: "args": want a JSON object`},
		{name: "cni args no object", config: `{"plugins":[{"type":"a","args":{"cni":7}}]}`, selection: withArgs(`{}`),
			err: `plugin 1: "args": "cni": want a JSON object`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Configure([]byte(tt.config), "kube-system/n", tt.selection, tt.device)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// FuzzConfigure wants no panic, and of what is accepted a list whose every plugin has the device.
func FuzzConfigure(f *testing.F) {
	f.Add(`{"type":"a"}`, `{"b":1}`)
	f.Add(`{"plugins":[{"type":"a","args":{"cni":null}}]}`, `{}`)
	f.Add(`{"plugins":[null]}`, `null`)
	f.Fuzz(func(t *testing.T, config, args string) {
		got, err := Configure([]byte(config), "n", withArgs(args), "dev")
		if err != nil {
			return
		}
		var list struct {
			Name    string
			Plugins []struct{ Type, DeviceID, PciBusID string }
		}
		if err := json.Unmarshal(got, &list); err != nil || len(list.Plugins) == 0 {
			t.Fatalf("%s gave %s: %v", config, got, err)
		}
		for _, p := range list.Plugins {
			if p.DeviceID != "dev" || p.PciBusID != "dev" {
				t.Errorf("%s gave %s", config, got)
			}
		}
	})
}

func TestCapabilityArgs(t *testing.T) {
	selection := &cncfv1.NetworkSelectionElement{
		Name: "n", IPRequest: []string{"10.0.0.1/16"}, MacRequest: "m", InfinibandGUIDRequest: "g",
		PortMappingsRequest: []cncfv1.PortMappingEntry{{HostPort: 1, ContainerPort: 2}},
		BandwidthRequest:    &cncfv1.BandwidthEntry{IngressRate: 1},
	}
	got := CapabilityArgs(map[string]any{"dns": "kept", "portMappings": "runtime's"}, selection, "dev", "/file")
	want := map[string]any{
		"dns": "kept", "deviceID": "dev", "CNIDeviceInfoFile": "/file", "ips": selection.IPRequest, "mac": "m",
		"infinibandGUID": "g",
		"portMappings":   selection.PortMappingsRequest, "bandwidth": selection.BandwidthRequest,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := CapabilityArgs(nil, nil, "", ""); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestCheckDeliverable(t *testing.T) {
	selection := &cncfv1.NetworkSelectionElement{Name: "n", Namespace: "ns", InfinibandGUIDRequest: "g"}
	if err := CheckDeliverable([]byte(`{"plugins":[{"type":"a"},{"type":"b","capabilities":{"infinibandGUID":true}}]}`),
		selection); err != nil {
		t.Error(err)
	}
	for _, config := range []string{`{"plugins":[{"type":"a"}]}`,
		`{"plugins":[{"type":"a","capabilities":{"infinibandGUID":false,"ips":true}}]}`} {
		err := CheckDeliverable([]byte(config), selection)
		want := `the pod asks network ns/n for "infiniband-guid", which none of the network's plugins takes: drop it from the annotation, or declare "capabilities": {"infinibandGUID": true}`
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", config, err, want)
		}
	}
}

// What a pod asks for reaches a plugin, as a capability or as Multus passes it, or is refused.
func TestArguments(t *testing.T) {
	const base = "IgnoreUnknown=1;K8S_POD_NAME=p"
	both := cncfv1.NetworkSelectionElement{Name: "n", Namespace: "ns",
		IPRequest: []string{"10.1.1.21/24", "fd00::1/64"}, MacRequest: "02:00:5e:10:00:01"}
	ips, mac := both, both
	ips.MacRequest, mac.IPRequest = "", nil
	const asIP, asMAC = "IP=10.1.1.21/24,fd00::1/64", "MAC=02:00:5e:10:00:01"
	for name, c := range map[string]struct {
		base, plugins string
		selection     *cncfv1.NetworkSelectionElement
		want, refused string
	}{
		"nothing asked":           {base, `{"type":"macvlan"}`, &cncfv1.NetworkSelectionElement{}, base, ""},
		"cluster's network":       {base, `{"type":"macvlan"}`, nil, base, ""},
		"static addresses":        {base, `{"type":"ipoib","ipam":{"type":"static"}}`, &ips, base + ";" + asIP, ""},
		"our addresses":           {base, `{"type":"ib-sriov","ipam":{"type":"spiderpool"}}`, &ips, base + ";" + asIP, ""},
		"foreign plugin":          {base, `{"type":"macvlan"}`, &both, base + ";" + asMAC + ";" + asIP, ""},
		"foreign plugin in chain": {base, `{"type":"ipoib"},{"type":"tuning"}`, &mac, base + ";" + asMAC, ""},
		"capability":              {base, `{"type":"macvlan","capabilities":{"ips":true,"mac":true}}`, &both, base, ""},
		"capability switched off": {base, `{"type":"macvlan","capabilities":{"ips":false}}`, &ips, base + ";" + asIP, ""},
		"one is a capability":     {base, `{"type":"macvlan","capabilities":{"ips":true}}`, &both, base + ";" + asMAC, ""},
		"no variables":            {"", `{"type":"macvlan"}`, &ips, "IgnoreUnknown=1;" + asIP, ""},
		"runtime does not ignore": {"A=b;", `{"type":"macvlan"}`, &ips, "A=b;IgnoreUnknown=1;" + asIP, ""},
		"runtime asked itself":    {"IgnoreUnknown=1;IP=10.9.9.9;A=b", `{"type":"macvlan"}`, &ips, "IgnoreUnknown=1;A=b;" + asIP, ""},
		"no addresses":            {base, `{"type":"ib-sriov"},{"type":"coordinator"}`, &ips, base, `for "ips", which none`},
		"our hardware address":    {base, `{"type":"ib-sriov","ipam":{"type":"spiderpool"}}`, &mac, base, `for "mac", which none`},
	} {
		t.Run(name, func(t *testing.T) {
			config := []byte(`{"plugins":[` + c.plugins + `]}`)
			if got, err := Arguments(c.base, config, c.selection); err != nil || got != c.want {
				t.Errorf("%s, %v; want %s", got, err, c.want)
			}
			err := CheckDeliverable(config, c.selection)
			if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
				t.Errorf("refusal %v, want %q", err, c.refused)
			}
		})
	}
}

func TestAssignDevices(t *testing.T) {
	const r = "spidernet.io/mellanoxibsriov"
	for _, tt := range []struct {
		name      string
		wishes    []DeviceWish
		allocated map[string][]string
		want      []string
		err       string
	}{
		{name: "default and secondary differ", wishes: []DeviceWish{{"k/a", r, ""}, {"k/x", "", ""}, {"k/a", r, ""}},
			allocated: map[string][]string{r: {"1", "2", "3"}}, want: []string{"1", "", "2"}},
		{name: "resources apart", wishes: []DeviceWish{{"k/a", r, ""}, {"k/b", "o", ""}},
			allocated: map[string][]string{r: {"1"}, "o": {"9"}}, want: []string{"1", "9"}},
		{name: "asked for", wishes: []DeviceWish{{"k/a", r, ""}, {"k/b", r, "1"}},
			allocated: map[string][]string{r: {"1", "2"}}, want: []string{"2", "1"}},
		{name: "asked for without a resource", wishes: []DeviceWish{{"k/a", "", "2"}},
			allocated: map[string][]string{r: {"1", "2"}}, want: []string{"2"}},
		{
			name: "none requested", wishes: []DeviceWish{{"kube-system/ib-sriov", r, ""}},
			err: `network kube-system/ib-sriov needs a device of spidernet.io/mellanoxibsriov: the pod's networks need 1 and it was allocated 0; add "resources: {limits: {spidernet.io/mellanoxibsriov: 1}}" to a container of the pod`,
		},
		{name: "too few", wishes: []DeviceWish{{"k/a", r, ""}, {"k/b", r, ""}},
			allocated: map[string][]string{r: {"1"}},
			err: "network k/b needs a device of spidernet.io/mellanoxibsriov: the pod's networks need 2 and " +
				"it was allocated 1"},
		{name: "another pod's", wishes: []DeviceWish{{"k/a", r, "7"}}, allocated: map[string][]string{r: {"1", "2"}},
			err: "asks for device 7, which is not among the devices of spidernet.io/mellanoxibsriov allocated to " +
				"the pod (1, 2)"},
		{name: "another pod's, no resource", wishes: []DeviceWish{{"k/a", "", "7"}},
			allocated: map[string][]string{r: {"1"}},
			err:       "asks for device 7, which is not among the devices allocated to the pod"},
		{name: "asked for twice", wishes: []DeviceWish{{"k/a", r, "1"}, {"k/b", r, "1"}},
			allocated: map[string][]string{r: {"1"}},
			err:       "network k/b asks for device 1, which network k/a asks for as well"},
	} {
		got, err := AssignDevices(tt.wishes, tt.allocated)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
			}
			continue
		}
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", tt.name, err, diff)
		}
	}
}

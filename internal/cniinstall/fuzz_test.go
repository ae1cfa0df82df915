// SPDX-License-Identifier: Apache-2.0

package cniinstall

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// FuzzWriteConf: whatever the node's configurations hold, ours names one of them, which is not a
// meta plugin's, and is written once; or nothing is changed, and the error says whether there is no
// network or another product. RemoveConf leaves what is not ours.
func FuzzWriteConf(f *testing.F) {
	lab := `{"name":"k8s-pod-network","cniVersion":"0.3.1","plugins":[{"type":"calico"},{"type":"portmap"}]}`
	f.Add([]byte(lab), []byte(nil), "")
	f.Add([]byte(lab), []byte(`{"name":"multus-cni-network","type":"multus","owner":"spiderpool"}`), "")
	f.Add([]byte(`{"name":"a","type":"ptp"}`),
		[]byte(`{"name":"multus-cni-network","type":"multus","clusterNetwork":"x"}`), "")
	f.Add([]byte(`{"type":"ptp"}`), []byte(`{"Owner":"spiderpool"}`), "given")
	f.Add([]byte(`{"name":"m","plugins":[{"type":"multus"}]}`), []byte(`{`), "")
	f.Add([]byte(`null`), []byte(`null`), "")
	// was taken for the primary network
	f.Add([]byte(lab), []byte(`{"name":"multus-cni-network","type-networ":"multus","owner":"spiderpool"}`), "")
	f.Add([]byte("{\"name\":\"\xff\u2028<\"}"), []byte(nil), "\xff")
	f.Fuzz(func(t *testing.T, other, own []byte, given string) {
		dir := t.TempDir()
		write(t, dir, "10-other.conflist", string(other))
		if own != nil {
			write(t, dir, ConfName, string(own))
		}
		was := own != nil && oursConf(own)
		if ConfInstalled(dir) != was {
			t.Fatalf("%q counts as ours: %t", own, !was)
		}
		o := ConfOptions{Dir: dir, ClusterNetwork: given, Namespace: "kube-system", Socket: "/run/s.sock"}
		p, err := WriteConf(o)
		if err != nil {
			if errors.Is(err, ErrForeign) != (own != nil && !was) || !errors.Is(err, ErrForeign) &&
				!errors.Is(err, ErrNoPrimary) {
				t.Fatalf("with %q of ours and %q: %v", own, other, err)
			}
			if now, readErr := os.ReadFile(filepath.Join(dir, ConfName)); own == nil != os.IsNotExist(readErr) ||
				string(now) != string(own) {
				t.Fatalf("%v, and %q became %q", err, own, now)
			}
			return
		}
		checkWritten(t, dir, other, given, p)
		before := read(t, filepath.Join(dir, ConfName))
		if again, err := WriteConf(o); err != nil || again != p || read(t, filepath.Join(dir, ConfName)) != before {
			t.Fatalf("once more: %+v, %v; first %+v", again, err, p)
		}
		if err := RemoveConf(dir); err != nil || ConfInstalled(dir) {
			t.Fatalf("RemoveConf: %v", err)
		}
		if left := names(t, dir); !slices.Equal(left, []string{"10-other.conflist"}) {
			t.Fatalf("left: %q", left)
		}
	})
}

func checkWritten(t *testing.T, dir string, other []byte, given string, p Primary) {
	t.Helper()
	var c conf
	if err := json.Unmarshal([]byte(read(t, filepath.Join(dir, ConfName))), &c); err != nil {
		t.Fatal(err)
	}
	if c.Owner != owner || c.Type != PluginType || c.ClusterNetwork == "" || !ConfInstalled(dir) {
		t.Fatalf("written: %+v", c)
	}
	if given != "" {
		return
	}
	name, types, err := readConf(filepath.Join(dir, "10-other.conflist"))
	if err != nil || name != p.Name || name != c.ClusterNetwork || slices.Contains(types, PluginType) {
		t.Fatalf("%q is taken for the network %+v; written %q, %v", other, p, c.ClusterNetwork, err)
	}
}

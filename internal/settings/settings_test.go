// SPDX-License-Identifier: Apache-2.0

package settings_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/settings"
)

func TestParse(t *testing.T) {
	ipv4Only := settings.Default()
	ipv4Only.EnableIPv6 = false
	ipv4Only.GC.IntervalSeconds = 30
	noOwners := settings.Default()
	noOwners.EnableStatefulSet, noOwners.EnableKubevirtStaticIP = false, false
	noStock := settings.Default()
	noStock.Stock.PerPool = 0
	muchStock := settings.Default()
	muchStock.Stock = settings.Stock{PerPool: 256, HeartbeatSeconds: 20}
	isolated := settings.Default()
	isolated.NamespaceIsolation, isolated.GlobalNamespaces = true, []string{"kube-system"}
	tests := map[string]struct {
		text    string
		want    settings.Settings
		wantErr string
	}{
		"empty": {"", settings.Default(), ""},
		"unknown keys": {"clusterSubnetDefaultFlexibleIPNumber: 1\nenableSpiderSubnet: true\n",
			settings.Default(), ""},
		"some keys":           {"enableIPv6: false\ngc: {intervalSeconds: 30}\n", ipv4Only, ""},
		"owners off":          {"enableStatefulSet: false\nenableKubevirtStaticIP: false\n", noOwners, ""},
		"no stock":            {"stock: {perPool: 0}\n", noStock, ""},
		"stock at its bounds": {"stock: {perPool: 256, heartbeatSeconds: 20}\n", muchStock, ""},
		"too much stock": {"stock: {perPool: 257}\n", settings.Settings{},
			"stock.perPool is 257: give 0 (no stock) to 256"},
		"negative stock": {"stock: {perPool: -1}\n", settings.Settings{},
			"stock.perPool is -1: give 0 (no stock) to 256"},
		"long heartbeat": {"stock: {heartbeatSeconds: 86401}\n", settings.Settings{},
			"stock.heartbeatSeconds is 86401: give 20 to 86400"},
		"short heartbeat": {"stock: {heartbeatSeconds: 19}\n", settings.Settings{},
			"stock.heartbeatSeconds is 19: give 20 to 86400"},
		"stock is a number":   {"stock: 8\n", settings.Settings{}, "stock"},
		"isolation":           {"namespaceIsolation: true\nglobalNamespaces: [kube-system]\n", isolated, ""},
		"no namespace's name": {"globalNamespaces: [a, A/b]\n", settings.Settings{}, "globalNamespaces[1] is \"A/b\""},
		"no family": {"enableIPv4: false\nenableIPv6: false\n", settings.Settings{},
			"set at least one to true"},
		"relative socket":  {"ipamUnixSocketPath: spiderpool.sock\n", settings.Settings{}, "give an absolute path"},
		"interval of zero": {"gc: {intervalSeconds: 0}\n", settings.Settings{}, "gc.intervalSeconds is 0"},
		"negative extra grace": {"gc: {additionalGraceSeconds: -1}\n", settings.Settings{},
			"gc.additionalGraceSeconds is -1"},
		"wrong type": {"enableIPv4: perhaps\n", settings.Settings{}, "enableIPv4"},
		"not YAML":   {"{", settings.Settings{}, "reading it as YAML"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := settings.Parse([]byte(tt.text))
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("error %v, want one with %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Defaults that users read in the chart.
func TestDefault(t *testing.T) {
	want := settings.Settings{
		IPAMUnixSocketPath: "/var/run/spidernet/spiderpool.sock", EnableIPv4: true, EnableIPv6: true,
		EnableStatefulSet: true, EnableKubevirtStaticIP: true,
		GlobalNamespaces: []string{"default"},
		Stock:            settings.Stock{PerPool: 8, HeartbeatSeconds: 120}, GC: settings.GC{IntervalSeconds: 600},
	}
	if diff := cmp.Diff(want, settings.Default()); diff != "" {
		t.Error(diff)
	}
	if got := settings.Default().Stock.Heartbeat(); got != 2*time.Minute {
		t.Errorf("heartbeat %s", got)
	}
}

func TestLoadWithoutFileGivesDefaults(t *testing.T) {
	got, err := settings.Load(filepath.Join(t.TempDir(), "conf.yml"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(settings.Default(), got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("enableIPv4: true\ngc: {intervalSeconds: 5}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := settings.Parse(text)
		if err == nil && (s.Stock.PerPool < 0 || s.Stock.PerPool > settings.MaxStock ||
			s.Stock.HeartbeatSeconds < settings.MinHeartbeatSeconds ||
			s.Stock.HeartbeatSeconds > settings.MaxHeartbeatSeconds) {
			t.Errorf("accepted the stock %+v: %q", s.Stock, text)
		}
		if err == nil && !s.EnableIPv4 && !s.EnableIPv6 {
			t.Errorf("accepted settings without an address family: %q", text)
		}
	})
}

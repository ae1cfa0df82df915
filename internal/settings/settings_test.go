package settings_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/settings"
)

func TestParse(t *testing.T) {
	ipv4Only := settings.Default()
	ipv4Only.EnableIPv6 = false
	ipv4Only.GC.IntervalSeconds = 30
	tests := map[string]struct {
		text    string
		want    settings.Settings
		wantErr string
	}{
		"empty":                {"", settings.Default(), ""},
		"unknown keys":         {"clusterSubnetDefaultFlexibleIPNumber: 1\nenableSpiderSubnet: true\n", settings.Default(), ""},
		"some keys":            {"enableIPv6: false\ngc: {intervalSeconds: 30}\n", ipv4Only, ""},
		"no family":            {"enableIPv4: false\nenableIPv6: false\n", settings.Settings{}, "set at least one to true"},
		"relative socket":      {"ipamUnixSocketPath: spiderpool.sock\n", settings.Settings{}, "give an absolute path"},
		"interval of zero":     {"gc: {intervalSeconds: 0}\n", settings.Settings{}, "gc.intervalSeconds is 0"},
		"negative extra grace": {"gc: {additionalGraceSeconds: -1}\n", settings.Settings{}, "gc.additionalGraceSeconds is -1"},
		"wrong type":           {"enableIPv4: perhaps\n", settings.Settings{}, "enableIPv4"},
		"not YAML":             {"{", settings.Settings{}, "reading it as YAML"},
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
		if err == nil && !s.EnableIPv4 && !s.EnableIPv6 {
			t.Errorf("accepted settings without an address family: %q", text)
		}
	})
}

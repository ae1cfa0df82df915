// SPDX-License-Identifier: Apache-2.0

// Package chart_test renders the product's chart with Helm's own library. It lives in the lab's
// module so that the product's does not link Helm; the product's tests read the golden files that
// this one keeps.
package chart_test

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files")

const chartDirectory = "../../charts/spiderpool"

// load returns the chart as `make release` packages it: with an image of its own.
func load(t *testing.T) *chart.Chart {
	t.Helper()
	c := source(t)
	for _, f := range c.Files {
		if f.Name == "release.yaml" {
			f.Data = []byte(released)
			return c
		}
	}
	t.Fatal("the chart has no release.yaml")
	return nil
}

const (
	digest   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	released = `{registry: registry.example.com, repository: me/spiderpool, tag: v0.2.0, digest: "` + digest + `"}`
)

// source returns the chart of the source tree.
func source(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(chartDirectory)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// render returns all manifests in order of their template's name.
func render(c *chart.Chart, values string) (string, error) {
	set := map[string]any{}
	if err := yaml.Unmarshal([]byte(values), &set); err != nil {
		return "", err
	}
	release := common.ReleaseOptions{Name: "spiderpool", Namespace: "kube-system", Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(c, set, release, common.DefaultCapabilities)
	if err != nil {
		return "", err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return "", err
	}
	return text(files), nil
}

// text joins rendered manifests.
func text(files map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if content := strings.TrimSpace(files[name]); strings.HasSuffix(name, ".yaml") && content != "" {
			b.WriteString("---\n# Source: " + name + "\n" + strings.TrimPrefix(content, "---\n") + "\n")
		}
	}
	return b.String()
}

func mustRender(t *testing.T, c *chart.Chart, values string) string {
	t.Helper()
	text, err := render(c, values)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestGolden(t *testing.T) {
	//nolint:lll // the lines of a raw string
	for name, values := range map[string]string{
		"default.yaml": "",
		"sriov.yaml":   "sriov: {install: true}",
		"everything.yaml": `
global: {imageRegistryOverride: ghcr.m.daocloud.io, commonLabels: {team: net}, commonAnnotations: {note: x}, nameOverride: ib}
image: {tag: dev, pullPolicy: Never, pullSecrets: [{name: registry}]}
sriov: {install: true, hostnetwork: false, preferredAllocation: pack, prometheus: {enabled: true}}
multus: {multusCNI: {defaultCniCRName: macvlan, uninstall: true}}
clusterDefaultPool: {installIPv4IPPool: true, ipv4Subnet: 10.6.0.0/16, ipv4IPRanges: [10.6.0.10-10.6.0.20], ipv4Gateway: 10.6.0.1}
spiderpoolAgent: {prometheus: {enabled: true}, extraEnv: [{name: A, value: b}], podLabels: {a: b}}
spiderpoolController: {replicas: 2, hostnetwork: false, prometheus: {enabled: true}, podAnnotations: {c: d}}
`,
	} {
		t.Run(name, func(t *testing.T) {
			got := mustRender(t, load(t), values)
			path := filepath.Join("../../charts/testdata", name)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("run go test -update in lab/chart after checking (-want +got):\n%s", diff)
			}
		})
	}
}

func TestImage(t *testing.T) {
	const previous = "registry: ghcr.io, repository: spidernet-io/spiderpool/spiderpool" // chart 0.1.0's values
	packaged, unpackaged := load(t), source(t)
	for name, tt := range map[string]struct {
		chart        *chart.Chart
		values, want string
	}{
		"packaged": {packaged, "", "registry.example.com/me/spiderpool@" + digest},
		"packaged, mirror": {packaged, "global: {imageRegistryOverride: 'mirror.example.com:5000'}",
			"mirror.example.com:5000/me/spiderpool@" + digest},
		"packaged, registry with a path": {packaged, "image: {registry: other.example.com/them}",
			"other.example.com/them/me/spiderpool@" + digest},
		"packaged, repository": {packaged, "image: {repository: fork/spiderpool}",
			"registry.example.com/fork/spiderpool@" + digest},
		"packaged, tag": {packaged, "image: {tag: v9}", "registry.example.com/me/spiderpool:v9"},
		"packaged, values of chart 0.1.0": {packaged, "image: {" + previous + ", tag: '', digest: ''}",
			"registry.example.com/me/spiderpool@" + digest},
		"packaged, image of the old name": {packaged, "image: {" + previous + ", tag: dev}",
			"ghcr.io/spidernet-io/spiderpool/spiderpool:dev"},
		"source, registry": {unpackaged, "image: {registry: 'registry.example.com:5000/me'}",
			"registry.example.com:5000/me/spiderpool:v0.2.0"},
		"source, registry and mirror": {unpackaged,
			"image: {registry: registry.example.com/me}\nglobal: {imageRegistryOverride: mirror.example.com}",
			"mirror.example.com/me/spiderpool:v0.2.0"},
		"source, mirror alone": {unpackaged, "global: {imageRegistryOverride: mirror.example.com/me}",
			"mirror.example.com/me/spiderpool:v0.2.0"},
		"source, digest": {unpackaged, "image: {registry: r.example.com, digest: '" + digest + "'}",
			"r.example.com/spiderpool@" + digest},
	} {
		t.Run(name, func(t *testing.T) {
			text := mustRender(t, tt.chart, tt.values)
			if !strings.Contains(text, "image: "+tt.want+"\n") {
				t.Errorf("no image %s in\n%s", tt.want, text)
			}
		})
	}
}

// TestSourceTreeHasNoRegistry shows what somebody sees who installs from a clone without having
// published an image.
func TestSourceTreeHasNoRegistry(t *testing.T) {
	for name, values := range map[string]string{
		"defaults":              "",
		"a tag":                 "image: {tag: v0.2.0}",
		"values of chart 0.1.0": "image: {registry: ghcr.io, repository: spidernet-io/spiderpool/spiderpool}",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := render(source(t), values)
			for _, want := range []string{"image.registry is empty", "make release REGISTRY=", "--set image.registry=",
				"global.imageRegistryOverride"} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error is %v; want it to contain %q", err, want)
				}
			}
		})
	}
}

// TestReuseValues renders as "helm upgrade --reuse-values" does: the old release's values are all
// there is, none of the chart's new defaults.
func TestReuseValues(t *testing.T) {
	want := mustRender(t, load(t), "sriov: {install: true}")
	for name, old := range map[string]string{
		"release of this chart":           "{}",
		"release before sriov had values": "sriov: {install: false}\nspiderpoolAgent: {httpPort: 5710}",
		"release of Spiderpool 1.x": `
global: {imageRegistryOverride: "", ipamBinHostPath: /opt/cni/bin}
multus: {enableMultusConfig: true, multusCNI: {install: true, name: spiderpool-multus, log: {logLevel: debug}}}
plugins: {installCNI: false, installOvsCNI: true, image: {registry: ghcr.io}}
rdma: {rdmaSharedDevicePlugin: {install: false}}
sriov: {image: {registry: ghcr.io, operator: {repository: k8snetworkplumbingwg/sriov-network-operator}}}
coordinator: {enabled: true, detectGateway: false}
spiderpoolAgent: {image: {registry: ghcr.io, tag: v1.2.1}, debug: {gopsPort: 5712}}
spiderpoolController: {podResourceInject: {enabled: false}, tls: {method: auto, auto: {caExpiration: "73000"}}}
grafanaDashboard: {install: false}
`,
	} {
		t.Run(name, func(t *testing.T) {
			c := load(t)
			c.Values = map[string]any{}
			if err := yaml.Unmarshal([]byte(old), &c.Values); err != nil {
				t.Fatal(err)
			}
			got := mustRender(t, c, "sriov: {install: true}")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct{ values, want string }{
		"mode":                 {"coordinator: {mode: bridge}", "/coordinator/mode"},
		"word for a number":    {"sriov: {replicas: many}", "/sriov/replicas"},
		"word for a switch":    {`sriov: {install: "yes"}`, "/sriov/install"},
		"port out of range":    {"spiderpoolController: {webhookPort: 70000}", "/spiderpoolController/webhookPort"},
		"relative path":        {"global: {cniBinHostPath: opt/cni/bin}", "/global/cniBinHostPath"},
		"pull policy":          {"image: {pullPolicy: Sometimes}", "/image/pullPolicy"},
		"resource prefix":      {"sriov: {resourcePrefix: Spider_Net}", "/sriov/resourcePrefix"},
		"preferred allocation": {"sriov: {preferredAllocation: random}", "/sriov/preferredAllocation"},
		"other TLS method": {"spiderpoolController: {tls: {method: certmanager}}",
			"/spiderpoolController/tls/method"},
		"too much stock":    {"ipam: {stock: {perPool: 257}}", "/ipam/stock/perPool"},
		"short heartbeat":   {"ipam: {stock: {heartbeatSeconds: 5}}", "/ipam/stock/heartbeatSeconds"},
		"no address family": {"ipam: {enableIPv4: false, enableIPv6: false}", "set at least one to true"},
		"pool without a subnet": {"clusterDefaultPool: {installIPv4IPPool: true}",
			"clusterDefaultPool.ipv4Subnet is needed"},
		"pool of nonsense": {"clusterDefaultPool: {ipv4Subnet: everything}", "/clusterDefaultPool/ipv4Subnet"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := render(load(t), tt.values)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// TestOffValuesCount guards the completion of values against taking "false", 0 and "" for absent.
func TestOffValuesCount(t *testing.T) {
	got := mustRender(t, load(t),
		"ipam: {enableIPv6: false, enableStatefulSet: false, enableKubevirtStaticIP: false, "+
			"enableIPConflictDetection: true, stock: {perPool: 0}}\nspiderpoolAgent: {tolerations: []}\nmultus: "+
			"{multusCNI: {install: false}}\ncoordinator: {enabled: false}")
	for _, want := range []string{"enableIPv6: false", "enableStatefulSet: false", "enableKubevirtStaticIP: false",
		"enableIPConflictDetection: true", "enableGatewayDetection: false", "perPool: 0", "heartbeatSeconds: 120",
		"name: INSTALL_MULTUS\n              value: \"false\""} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(got, `\"coordinator\"`) {
		t.Error("the init pod creates a coordinator that was turned off")
	}
}

// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"os"
	"strings"
	"testing"
)

// The copy here is the guide. Where the original lies beside the repository, they must not differ by a byte.
func TestGuideIsTheOriginal(t *testing.T) {
	original, err := os.ReadFile("../../../shared/guide.md")
	if os.IsNotExist(err) {
		t.Skip("the original guide is not beside this repository; nothing to compare with")
	}
	if err != nil {
		t.Fatal(err)
	}
	if string(original) != guideText {
		t.Error("lab/demo/guide.md differs from the original guide")
	}
}

func TestScriptsOfTheGuide(t *testing.T) {
	g := ParseGuide(guideText)
	for _, c := range []struct{ part, pattern, first, contains string }{
		{PartSRIOV, "SriovNetworkNodePolicy", "cat <<EOF | kubectl apply -f -\n", "\n  numVfs: 12\n"},
		{PartSRIOV, "SpiderMultusConfig", "cat <<EOF | kubectl apply -f -\n",
			"\n  cniType: ib-sriov\n  ibsriov:\n    resourceName: spidernet.io/mellanoxibsriov\n"},
		{PartSRIOV, "kind: DaemonSet", "ANNOTATION_MULTUS=", " ls -l /dev/infiniband /sys/class/net\n"},
		{PartIPoIB, "SpiderMultusConfig", "cat <<EOF | kubectl apply -f -\n",
			"\n  cniType: ib-sriov\n  ipoib:\n    master: \"ibs5f0\"\n"},
		{PartIPoIB, "kind: DaemonSet", "ANNOTATION_MULTUS=", "\nNAME=ipoib\n"},
	} {
		s, err := g.Script(c.part, c.pattern)
		if err != nil {
			t.Error(err)
			continue
		}
		if !strings.HasPrefix(s, c.first) || !strings.HasSuffix(s, "\nEOF\n") || !strings.Contains(s, c.contains) {
			t.Errorf("script %q of %q is\n%s", c.pattern, c.part, s)
		}
	}
	if _, err := g.Script(PartIPoIB, "SriovNetworkNodePolicy"); err == nil {
		t.Error("a script was found that the part does not have")
	}
}

func TestPromises(t *testing.T) {
	g := ParseGuide(guideText)
	for _, c := range []struct{ part, pattern, want string }{
		{PartSRIOV, "lspci",
			"86:00.0 Infiniband controller [0207]: Mellanox Technologies MT27800 Family [ConnectX-5] [15b3:1017]"},
		{PartSRIOV, "ibstat", "Link layer: InfiniBand"},
		{PartSRIOV, "rdma system$", "netns exclusive copy-on-fork on"},
		{PartSRIOV, "rdma link",
			"link mlx5_0/1 subnet_prefix fe80:0000:0000:0000 lid 2 sm_lid 2 lmc 0 state ACTIVE physical_state LINK_UP"},
	} {
		got, err := g.Promise(c.part, c.pattern)
		if err != nil || got != c.want {
			t.Errorf("Promise(%q, %q) = %q, %v; want %q", c.part, c.pattern, got, err, c.want)
		}
	}
	pods, err := g.Promise(PartSRIOV, "get pod -n kube-system")
	if err != nil || strings.Count(pods, "\n") != 4 || !strings.Contains(pods, "spiderpool-init") {
		t.Errorf("promised pods: %q, %v", pods, err)
	}
}

func FuzzParseGuide(f *testing.F) {
	f.Add(guideText)
	f.Fuzz(func(t *testing.T, text string) {
		for part, blocks := range ParseGuide(text).parts {
			for _, b := range blocks {
				if strings.TrimSpace(b) == "" {
					t.Errorf("part %q has an empty block", part)
				}
			}
		}
	})
}

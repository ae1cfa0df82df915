// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"spidernet.io/spiderpool/lab/internal/cluster"
	"spidernet.io/spiderpool/lab/internal/topology"
)

// releaseVersion is what this run releases. A registry has a version once: a lab that is kept needs
// another one for every state of the tree.
var releaseVersion = versionOfRun()

func versionOfRun() string {
	if os.Getenv("LAB_KEEP") == "" {
		return pageVersion
	}
	return fmt.Sprintf("0.2.0-lab.%d", time.Now().Unix())
}

// chart is the released chart's place.
var chart = "oci://" + cluster.DefaultOptions().Registry() + "/demo/charts/spiderpool"

// releasedImage is the line in which `make release` prints the image.
var releasedImage = regexp.MustCompile(`(?m)^image +([^@ ]+):v[^@ ]+@(sha256:[0-9a-f]{64})$`)

// release runs the page's command and returns the image's name with its digest. What it pushed has
// both platforms, and no node has any image of the product yet.
func release(t *testing.T) string {
	t.Helper()
	if os.Getenv("LAB_KEEP") == "" {
		for _, n := range topology.Names() {
			if images := node(t, n, "ctr -n k8s.io images ls -q | grep spiderpool || true"); images != "" {
				t.Errorf("%s has images of the product before anything is installed: %s", n, images)
			}
		}
	}
	// A developer tries what is not committed yet. It says so of itself.
	out := shell(t, "export ALLOW_DIRTY=1\n"+pageScript(t, sectionRelease))
	t.Log(out)
	m := releasedImage.FindStringSubmatch(out)
	if m == nil {
		t.Fatal("make release printed no image")
	}
	image := m[1] + "@" + m[2]
	ref, err := name.NewDigest(image)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatalf("the image that make release printed: %v", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, d := range manifest.Manifests {
		platforms = append(platforms, d.Platform.String())
	}
	if diff := differs("platforms", platforms, []string{"linux/amd64", "linux/arm64"}); diff != "" {
		t.Error(diff)
	}
	return image
}

// checkImages compares what containerd says that the product's containers run, by the digest that it
// pulled, with one image.
func checkImages(t *testing.T, image string) {
	t.Helper()
	const ids = `{range .items[*]}{range .status.containerStatuses[*]}{.imageID}{"\n"}{end}` +
		`{range .status.initContainerStatuses[*]}{.imageID}{"\n"}{end}{end}`
	out := shell(t, "kubectl -n kube-system get pods -l app.kubernetes.io/name=spiderpool -o jsonpath='"+ids+"'")
	running := strings.Fields(out)
	slices.Sort(running)
	if diff := differs("images of the product's containers", slices.Compact(running), []string{image}); diff != "" {
		t.Error(diff)
	}
	out = shell(t, "kubectl -n kube-system exec daemonset/spiderpool-agent -- /usr/bin/spiderpool version")
	if first, _, _ := strings.Cut(out, "\n"); first != "spiderpool v"+releaseVersion {
		t.Errorf("the agent's program says that it is %q, expected spiderpool v%s", first, releaseVersion)
	}
}

// upgrade changes the release that is installed, and waits until all is ready, as helm does.
func upgrade(t *testing.T, flags string) {
	t.Helper()
	version := strings.TrimSpace(shell(t,
		`helm -n kube-system list -o json | jq -r '.[] | select(.name == "spiderpool").chart'`))
	version = strings.TrimPrefix(version, "spiderpool-")
	shell(t,
		fmt.Sprintf(
			"helm upgrade spiderpool %s --version %s --plain-http --namespace kube-system --reuse-values %s --wait "+
				"--timeout 5m",
			chart, version, flags))
}

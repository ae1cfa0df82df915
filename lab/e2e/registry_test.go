// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"spidernet.io/spiderpool/lab/internal/cluster"
	"spidernet.io/spiderpool/lab/internal/gobuild"
	"spidernet.io/spiderpool/lab/internal/registry"
	"spidernet.io/spiderpool/release/archive"
	"spidernet.io/spiderpool/release/image"
)

// TestRegistryFaults pulls from a registry that is away, and from one that breaks off in the middle
// of a layer. The pod's status says what is wrong, helm says that it has no chart, what is installed
// stays, and the pods start when the registry is right again. docs/troubleshooting.md has the texts.
func TestRegistryFaults(t *testing.T) {
	shell(t, "kubectl create namespace e2e --dry-run=client -o yaml | kubectl apply -f -")
	absent, _ := pushSmall(t, "absent")
	half, layer := pushSmall(t, "half")
	t.Cleanup(func() { shell(t, "kubectl -n e2e delete pod absent half --ignore-not-found --timeout=120s") })
	revision := func() string {
		t.Helper()
		return shell(t, `helm -n kube-system list -o json | jq -r '.[] | .name + " " + .revision'`)
	}
	before := revision()

	blob := registry.Blob(laboratory.Layout.Registry(), layer)
	whole, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(blob, int64(len(whole)/2)); err != nil {
		t.Fatal(err)
	}
	apply(t, imagePod("half", half))
	pulling(t, "half", half, "unexpected commit size", "failed size validation", "unexpected EOF")

	const away = 30 * time.Second
	if err := laboratory.Outage(t.Context(), "registry", away); err != nil {
		t.Fatal(err)
	}
	apply(t, imagePod("absent", absent))
	pulling(t, "absent", absent, "connection refused")
	out, err := tolerant(t,
		fmt.Sprintf(
			"helm upgrade spiderpool %s --version %s --plain-http -n kube-system --reuse-values --wait --timeout 1m",
			chart, releaseVersion))
	if err == nil {
		t.Errorf("helm upgrade succeeded without a registry:\n%s", out)
	} else {
		t.Logf("helm without a registry: %v", err)
	}
	if diff := differs("release and revision", revision(), before); diff != "" {
		t.Error(diff)
	}

	if err := os.WriteFile(blob, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	shell(t, "kubectl -n e2e wait --for=condition=Ready --timeout=180s pod/absent pod/half")
}

// pulling waits until a pod's status says that its image cannot be pulled, for one of the reasons.
func pulling(t *testing.T, pod, image string, reasons ...string) {
	t.Helper()
	eventually(t, 2*time.Minute, func() string {
		waiting := shell(t, "kubectl -n e2e get pod "+pod+
			` -o jsonpath='{range .status.containerStatuses[*]}{.state.waiting.reason}: {.state.waiting.message}{end}'`)
		if !strings.HasPrefix(waiting, "ErrImagePull: ") || !strings.Contains(waiting, image) {
			return fmt.Sprintf("the status of %s is %q, expected ErrImagePull of %s", pod, waiting, image)
		}
		for _, reason := range reasons {
			if strings.Contains(waiting, reason) {
				t.Logf("pod %s: %s", pod, waiting)
				return ""
			}
		}
		return fmt.Sprintf("the status of %s is %q, expected one of %q", pod, waiting, reasons)
	})
}

// pushSmall pushes an image that does nothing and has a layer of its own, and returns its reference
// and the layer's digest.
func pushSmall(t *testing.T, tag string) (reference, layer string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "pause")
	if err := gobuild.Build(t.Context(), laboratory.Source.Lab, "./cmd/pause", program, ""); err != nil {
		t.Fatal(err)
	}
	files, err := image.FromEntries([]archive.Entry{
		{Name: "pause", Mode: 0o755, Path: program},
		{Name: "tag", Mode: 0o644, Content: fmt.Appendf(nil, "%s %d\n", tag, time.Now().UnixNano())},
	})
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.Build(files, image.Config{Entrypoint: []string{"/pause"}})
	if err != nil {
		t.Fatal(err)
	}
	reference = pushImage(t, "e2e/small", tag, img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	return reference, digest.String()
}

// pushImage pushes to the lab's registry and returns the reference with its tag.
func pushImage(t *testing.T, repository, tag string, img v1.Image) string {
	t.Helper()
	ref, err := name.NewTag(cluster.DefaultOptions().Registry() + "/" + repository + ":" + tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatalf("pushing %s: %v", ref, err)
	}
	return ref.Name()
}

func imagePod(name, image string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: e2e}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: %q, imagePullPolicy: Always}
`, name, image)
}

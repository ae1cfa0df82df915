// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/attach"
	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/scheme"
	"spidernet.io/spiderpool/internal/settings"
	"spidernet.io/spiderpool/internal/sriov"
	"spidernet.io/spiderpool/internal/testapi"
)

func TestMain(m *testing.M) { testapi.Main(m) }

func makePod(t *testing.T, c client.Client, name string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if err := c.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

// The status of one pod never lands on another of the same name.
func TestWriteStatus(t *testing.T) {
	c := testapi.Start(t).Client(t)
	sources := &cluster{client: c, live: c}
	pod := makePod(t, c, "status")
	if err := sources.WriteStatus(t.Context(), ledger.Pod{Namespace: "default", Name: "status", UID: "another"},
		"[]"); !errors.Is(err, attach.ErrNotFound) {
		t.Errorf("for a pod of another UID: %v, want ErrNotFound", err)
	}
	if err := sources.WriteStatus(t.Context(), ledger.Pod{Namespace: "default", Name: "gone", UID: "x"},
		"[]"); !errors.Is(err, attach.ErrNotFound) {
		t.Errorf("for a pod that is gone: %v, want ErrNotFound", err)
	}
	if err := sources.WriteStatus(t.Context(), ledger.Pod{Namespace: "default", Name: "status", UID: string(pod.UID)},
		`[{"name":"n"}]`); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
		t.Fatal(err)
	}
	if got := pod.Annotations[cncfv1.AnnotationNetworkStatus]; got != `[{"name":"n"}]` {
		t.Errorf("annotation is %q", got)
	}
}

func TestSourcesSayNotFound(t *testing.T) {
	c := testapi.Start(t).Client(t)
	sources := &cluster{client: c, live: c}
	if _, err := sources.Live(t.Context(), "default", "nobody"); !errors.Is(err, attach.ErrNotFound) {
		t.Errorf("pod: %v", err)
	}
	if _, err := sources.Network(t.Context(), "default", "nothing"); !errors.Is(err, attach.ErrNotFound) {
		t.Errorf("network: %v", err)
	}
}

// The whole process on a node without cards: it becomes ready when there is a primary network,
// serves the socket and the node's records, and says what cards the node has.
func TestAgentServes(t *testing.T) {
	o := options(t)
	o.SRIOV, o.Prefer, o.Root = true, sriov.Spread, t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, o) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the agent ended with %v", err)
		}
	}()

	base := "http://" + o.HealthAddress
	eventually(t, func() error { return want(base+"/v1/runtime/readiness", "no primary CNI network") })
	primary := filepath.Join(o.Install.ConfDir, "10-lab.conflist")
	if err := os.WriteFile(primary, []byte(`{"cniVersion":"1.0.0","name":"lab","plugins":[{"type":"bridge"}]}`),
		0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return want(base+"/v1/runtime/readiness", "ok") })
	for _, name := range []string{"00-multus.conf"} {
		if _, err := os.Stat(filepath.Join(o.Install.ConfDir, name)); err != nil {
			t.Errorf("configuration: %v", err)
		}
	}
	c, err := client.New(o.Config, client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	showsCards(t, c, o)
	for _, name := range o.Install.Plugins {
		if _, err := os.Stat(filepath.Join(o.Install.BinDir, name)); err != nil {
			t.Errorf("plugin: %v", err)
		}
	}
	for _, name := range []string{"sandboxes", "vfs", "releases", "timings"} {
		var list []any
		if err := getJSON(base+"/v1/node/"+name, &list); err != nil || len(list) != 0 {
			t.Errorf("view %s: %v, %v", name, list, err)
		}
	}
	answer, err := cnisock.Call(t.Context(), o.Settings.IPAMUnixSocketPath, cnisock.Request{
		Plugin: attach.MetaPlugin,
		Env: map[string]string{"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "unknown", "CNI_IFNAME": "eth0",
			"CNI_PATH": o.Install.BinDir},
		Stdin: []byte(`{"cniVersion":"1.0.0","name":"multus-cni-network","type":"multus"}`),
	})
	if err != nil {
		t.Fatalf("DEL over the socket: %v", err)
	}
	// The primary network's plugin is not on this machine's disk; that the agent looked for it is
	// answer enough.
	if answer.Error != nil && !strings.Contains(answer.Error.Error(), "bridge") {
		t.Errorf("DEL of an unknown sandbox: %v", answer.Error)
	}
}

// showsCards waits until the node's object is looked after.
func showsCards(t *testing.T, c client.Client, o Options) {
	t.Helper()
	state := &sriovv1.SriovNetworkNodeState{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Node}}
	if err := c.Create(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(state), state); err != nil {
			return err
		}
		if meta.FindStatusCondition(state.Status.Conditions, sriovv1.ConditionReady) == nil {
			return fmt.Errorf("no condition yet: %+v", state.Status)
		}
		return nil
	})
}

func options(t *testing.T) Options {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"bin", "conf", "kubelet"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	shim := filepath.Join(dir, "shim")
	if err := os.WriteFile(shim, []byte("shim"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := settings.Default()
	s.IPAMUnixSocketPath = filepath.Join(dir, "agent.sock")
	return Options{
		Config: testapi.Start(t).Config, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Node: "node", Namespace: "kube-system", HealthAddress: freeAddress(t), Ledger: filepath.Join(dir, "ledger.db"),
		ResourcePrefix: "spidernet.io", KubeletDir: filepath.Join(dir, "kubelet"), Settings: s,
		Install: Install{Shim: shim, BinDir: filepath.Join(dir, "bin"), ConfDir: filepath.Join(dir, "conf"),
			Plugins: []string{"multus", "ib-sriov"}, Meta: true},
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// want gets a page and looks for text in it.
func want(url, text string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && !strings.Contains(string(body), text) {
		err = fmt.Errorf("%s answers %q, want %q in it", url, body, text)
	}
	return err
}

func getJSON(url string, into any) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}

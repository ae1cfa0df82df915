// SPDX-License-Identifier: Apache-2.0

package podresources

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// kubelet answers as a kubelet does, whose errors carry no code.
type kubelet struct {
	podresourcesv1.UnimplementedPodResourcesListerServer
	pods  []*podresourcesv1.PodResources
	noGet bool
	gets  int
}

func (k *kubelet) List(context.Context,
	*podresourcesv1.ListPodResourcesRequest) (*podresourcesv1.ListPodResourcesResponse, error) {
	return &podresourcesv1.ListPodResourcesResponse{PodResources: k.pods}, nil
}

func (k *kubelet) Get(_ context.Context,
	r *podresourcesv1.GetPodResourcesRequest) (*podresourcesv1.GetPodResourcesResponse, error) {
	k.gets++
	if k.noGet {
		return nil, errors.New("PodResources API Get method disabled")
	}
	for _, p := range k.pods {
		if p.Namespace == r.PodNamespace && p.Name == r.PodName {
			return &podresourcesv1.GetPodResourcesResponse{PodResources: p}, nil
		}
	}
	return nil, errors.New("pod not found")
}

func start(t *testing.T, k *kubelet) *Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "pr") // t.TempDir's names can be too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "kubelet.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	podresourcesv1.RegisterPodResourcesListerServer(server, k)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	c := New(socket)
	t.Cleanup(func() { c.Close() })
	return c
}

func pods() []*podresourcesv1.PodResources {
	give := func(resource string, ids ...string) *podresourcesv1.ContainerDevices {
		return &podresourcesv1.ContainerDevices{ResourceName: resource, DeviceIds: ids}
	}
	return []*podresourcesv1.PodResources{
		{Namespace: "default", Name: "a", Containers: []*podresourcesv1.ContainerResources{
			{Name: "init", Devices: []*podresourcesv1.ContainerDevices{give("spidernet.io/ib", "0000:86:00.3")}},
			{Name: "main", Devices: []*podresourcesv1.ContainerDevices{give("spidernet.io/ib", "0000:86:00.3"),
				give("spidernet.io/ib", "0000:86:00.1"), give("example.com/gpu", "g0")}},
		}},
		{Namespace: "default", Name: "none"},
		{Namespace: "other", Name: "a",
			Containers: []*podresourcesv1.ContainerResources{
				{Devices: []*podresourcesv1.ContainerDevices{give("spidernet.io/ib", "0000:86:00.2")}}}},
	}
}

func TestDevices(t *testing.T) {
	for _, noGet := range []bool{false, true} {
		k := &kubelet{pods: pods(), noGet: noGet}
		c := start(t, k)
		got, err := c.Devices(t.Context(), "default", "a")
		if err != nil {
			t.Fatal(err)
		}
		want := map[string][]string{"spidernet.io/ib": {"0000:86:00.1", "0000:86:00.3"}, "example.com/gpu": {"g0"}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if got, err := c.Devices(t.Context(), "default", "none"); err != nil || len(got) != 0 {
			t.Errorf("a pod without devices: %v, %v", got, err)
		}
		if _, err := c.Devices(t.Context(), "default", "missing"); !errors.Is(err, ErrNoPod) ||
			!strings.Contains(err.Error(), "default/missing") {
			t.Errorf("a pod that is not there: %v", err)
		}
		if k.gets == 0 {
			t.Error("Get was not tried")
		}
	}
}

func TestHolders(t *testing.T) {
	got, err := start(t, &kubelet{pods: pods()}).Holders(t.Context(), "spidernet.io/")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"0000:86:00.1": "default/a", "0000:86:00.3": "default/a", "0000:86:00.2": "other/a"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNoKubelet(t *testing.T) {
	c := New(filepath.Join(t.TempDir(), "nothing.sock"))
	defer c.Close()
	for _, err := range []error{second(c.Devices(t.Context(), "default", "a")),
		second(c.Holders(t.Context(), "spidernet.io/"))} {
		if err == nil || !strings.Contains(err.Error(), "nothing.sock") || !strings.Contains(err.Error(),
			"is it running") {
			t.Errorf("error %v", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

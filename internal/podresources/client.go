// SPDX-License-Identifier: Apache-2.0

// Package podresources asks the kubelet which devices it gave to a pod
// (PodResources API v1). It owns one connection to the kubelet's socket and
// knows nothing of networks or of what a device is.
package podresources

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// DefaultSocket is the kubelet's.
const DefaultSocket = "/var/lib/kubelet/pod-resources/kubelet.sock"

// callTimeout bounds one question. The kubelet answers from memory, but has little time for it on a
// node that starts all its pods at once.
const callTimeout = 15 * time.Second

// maxMessage is room for the whole list of a node with very many devices; gRPC's default of 4 MiB
// can be too little.
const maxMessage = 16 << 20

// ErrNoPod: the kubelet does not know the pod.
var ErrNoPod = errors.New("the kubelet knows no such pod")

// Client asks one kubelet. It is safe for concurrent use and survives restarts of the kubelet.
type Client struct {
	socket string
	conn   *grpc.ClientConn
	err    error
}

// New makes a client; the connection is made with the first question.
func New(socket string) *Client {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	return &Client{socket: socket, conn: conn, err: err}
}

// Close ends the connection.
func (c *Client) Close() error {
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// Devices lists a pod's devices by resource name ("spidernet.io/mellanoxibsriov"), sorted. It
// returns ErrNoPod when the kubelet does not know the pod, and an empty map when it has no devices.
func (c *Client) Devices(ctx context.Context, podNamespace, podName string) (map[string][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pod, err := c.find(ctx, podNamespace, podName)
	if err != nil {
		return nil, fmt.Errorf("ask the kubelet for the devices of pod %s/%s: %w", podNamespace, podName, err)
	}
	return devices(pod), nil
}

func (c *Client) find(ctx context.Context, namespace, name string) (*podresourcesv1.PodResources, error) {
	if c.err != nil {
		return nil, c.err
	}
	one, err := podresourcesv1.NewPodResourcesListerClient(c.conn).Get(ctx,
		&podresourcesv1.GetPodResourcesRequest{PodNamespace: namespace, PodName: name})
	if err == nil {
		return one.PodResources, nil
	}
	// Get says neither by a code of its own that it is switched off nor that it finds no pod; List
	// is always there.
	pods, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(pods, func(p *podresourcesv1.PodResources) bool {
		return p.Namespace == namespace &&
			p.Name == name
	})
	if i < 0 {
		return nil, ErrNoPod
	}
	return pods[i], nil
}

func (c *Client) list(ctx context.Context) ([]*podresourcesv1.PodResources, error) {
	if c.err != nil {
		return nil, c.err
	}
	all, err := podresourcesv1.NewPodResourcesListerClient(c.conn).List(ctx, &podresourcesv1.ListPodResourcesRequest{})
	if status.Code(err) == codes.Unavailable {
		return nil,
			fmt.Errorf(
				"the kubelet does not answer at %s (is it running, and is the folder mounted into the agent?): %w",
				c.socket, err)
	}
	if err != nil {
		return nil, err
	}
	return all.PodResources, nil
}

// Holders maps the ID of every device that the kubelet gave to a pod to "namespace/name" of the
// pod, for resources whose name begins with prefix ("spidernet.io/"). A device counts from the
// pod's admission on, before any network is attached.
func (c *Client) Holders(ctx context.Context, prefix string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pods, err := c.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the kubelet which pods have devices: %w", err)
	}
	out := map[string]string{}
	for _, pod := range pods {
		for resource, ids := range devices(pod) {
			if !strings.HasPrefix(resource, prefix) {
				continue
			}
			for _, id := range ids {
				out[id] = pod.Namespace + "/" + pod.Name
			}
		}
	}
	return out, nil
}

// Pods are the "namespace/name" of all pods that the kubelet has, with devices or without.
func (c *Client) Pods(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pods, err := c.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the kubelet for its pods: %w", err)
	}
	out := map[string]bool{}
	for _, pod := range pods {
		out[pod.Namespace+"/"+pod.Name] = true
	}
	return out, nil
}

// devices gathers a pod's devices over its containers; one resource appears once for each NUMA
// node, and one device in each container that shares it.
func devices(pod *podresourcesv1.PodResources) map[string][]string {
	out := map[string][]string{}
	for _, container := range pod.GetContainers() {
		for _, d := range container.Devices {
			out[d.ResourceName] = append(out[d.ResourceName], d.DeviceIds...)
		}
	}
	for resource, ids := range out {
		slices.Sort(ids)
		out[resource] = slices.Compact(ids)
	}
	return out
}

// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/libcni"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/nad"
)

// mirrorAnnotation marks the API server's image of a static pod, whose UID is not the one that the
// kubelet passes.
const mirrorAnnotation = corev1.MirrorPodAnnotationKey

// planned is one attachment that is to be made.
type planned struct {
	network
	selection    *cncfv1.NetworkSelectionElement // nil for the cluster's default network
	ifname       string
	list         *libcni.NetworkConfigList
	capabilities map[string]any
	args         string // CNI_ARGS
	deviceID     string
}

// title names the attachment in messages and in network-status.
func (p *planned) title() string {
	if p.nad != "" {
		return p.nad
	}
	return p.name
}

// gathered is what an ADD works from.
type gathered struct {
	pod  *corev1.Pod // nil when the runtime named none
	list []planned   // the default network first
}

// gather reads the pod, its networks and its devices. On error pod may still be set, for the event.
func (s *Service) gather(ctx context.Context, c *call) (gathered, error) {
	var g gathered
	if c.args["K8S_POD_NAME"] == "" {
		primary, err := s.primary(ctx, c)
		if err != nil {
			return g, err
		}
		g.list = []planned{{network: primary, ifname: c.ifname}}
		return g, s.configure(c, g.list, nil)
	}
	var err error
	if g.pod, err = s.findPod(ctx, c); err != nil {
		return g, err
	}
	if g.list, err = s.selected(ctx, c, g.pod); err != nil {
		return g, err
	}
	devices, err := s.devices(ctx, g.pod, g.list)
	if err != nil {
		return g, err
	}
	return g, s.configure(c, g.list, devices)
}

// findPod takes the pod that is known already unless it is another one of the same name.
func (s *Service) findPod(ctx context.Context, c *call) (*corev1.Pod, error) {
	want := c.pod()
	pod, err := s.Pods.Cached(ctx, want.Namespace, want.Name)
	if err == nil && sameUID(pod, want.UID) {
		return pod, nil
	}
	pod, err = s.Pods.Live(ctx, want.Namespace, want.Name)
	if errors.Is(err, ErrNotFound) {
		return nil, cni.Errorf(cni.CodeFailed, "it was deleted while it started; nothing is to be done",
			"pod %s/%s does not exist any more", want.Namespace, want.Name)
	}
	if err != nil {
		return nil, cni.Errorf(cni.CodeTryAgainLater, "the kubelet tries again", "read pod %s/%s: %w", want.Namespace,
			want.Name, err)
	}
	if !sameUID(pod, want.UID) {
		return nil, cni.Errorf(cni.CodeFailed,
			"the sandbox belongs to a pod of the same name that was deleted; nothing is to be done",
			"pod %s/%s has UID %s, and the runtime asks for UID %s", want.Namespace, want.Name, pod.UID, want.UID)
	}
	return pod, nil
}

func sameUID(pod *corev1.Pod, uid string) bool {
	_, static := pod.Annotations[mirrorAnnotation]
	return uid == "" || static || string(pod.UID) == uid
}

// selected resolves the annotations of a pod to networks, in order of attachment.
func (s *Service) selected(ctx context.Context, c *call, pod *corev1.Pod) ([]planned, error) {
	sel, err := nad.Selections(pod.Annotations, pod.Namespace, s.networkNamespace(c))
	if err == nil {
		err = nad.CheckInjection(pod.Annotations, sel)
	}
	if err == nil {
		err = sel.NameInterfaces(c.ifname)
	}
	if err != nil {
		return nil, cni.Errorf(cni.CodeInvalidConfig, "", "%w", err)
	}
	var list []planned
	if sel.Default == nil {
		primary, err := s.primary(ctx, c)
		if err != nil {
			return nil, err
		}
		list = append(list, planned{network: primary, ifname: c.ifname})
	} else {
		sel.Networks = append([]cncfv1.NetworkSelectionElement{*sel.Default}, sel.Networks...)
	}
	for i := range sel.Networks {
		e := &sel.Networks[i]
		n, err := s.selectedNetwork(ctx, c, pod, e)
		if err != nil {
			return nil, err
		}
		list = append(list, planned{network: n, selection: e, ifname: e.InterfaceRequest})
	}
	if list, err = s.appendDefaults(ctx, c, pod, list); err != nil {
		return nil, err
	}
	return list, checkDefaultRoute(pod, list)
}

// appendDefaults adds the further networks that the node's configuration gives to every pod but the system's.
func (s *Service) appendDefaults(ctx context.Context, c *call, pod *corev1.Pod, list []planned) ([]planned, error) {
	system := c.conf.SystemNamespaces
	if system == nil {
		system = []string{metav1.NamespaceSystem}
	}
	if slices.Contains(system, pod.Namespace) {
		return list, nil
	}
	for _, want := range c.conf.DefaultNetworks {
		n, err := s.named(ctx, c, want)
		if err != nil {
			return nil, fmt.Errorf("network %q of defaultNetworks: %w", want, err)
		}
		list = append(list, planned{network: n, ifname: freeInterface(list)})
	}
	return list, nil
}

// freeInterface is the next netN that no network of the pod has.
func freeInterface(list []planned) string {
	for i := len(list); ; i++ {
		name := fmt.Sprintf("net%d", i)
		if !slices.ContainsFunc(list, func(p planned) bool { return p.ifname == name }) {
			return name
		}
	}
}

func (s *Service) selectedNetwork(ctx context.Context, c *call, pod *corev1.Pod,
	e *cncfv1.NetworkSelectionElement) (network, error) {
	if s.NamespaceIsolation || c.conf.NamespaceIsolation {
		global := append(slices.Clone(s.GlobalNamespaces), c.conf.GlobalNamespaces...)
		if e.Namespace != pod.Namespace && !slices.Contains(global, e.Namespace) {
			return network{}, cni.Errorf(cni.CodeInvalidConfig,
				"use a network of the pod's own namespace, or add its namespace to globalNamespaces",
				"namespace isolation: pod %s/%s may not use network %s of another namespace", pod.Namespace, pod.Name,
				e.Key())
		}
	}
	n, err := s.nad(ctx, c, e.Namespace, e.Name)
	if errors.Is(err, ErrNotFound) {
		return network{}, cni.Errorf(cni.CodeInvalidConfig,
			"create it, or write the network as namespace/name in the pod's annotation; "+
				"see kubectl get network-attachment-definitions -A",
			"NetworkAttachmentDefinition %s does not exist (the pod is in namespace %s)", e.Key(), pod.Namespace)
	}
	return n, err
}

// nad reads a NetworkAttachmentDefinition; one without configuration names a file of the node.
func (s *Service) nad(ctx context.Context, c *call, namespace, name string) (network, error) {
	d, err := s.Networks.Network(ctx, namespace, name)
	if err != nil {
		if errors.Is(err, ErrNotFound) {
			return network{}, err
		}
		return network{}, cni.Errorf(cni.CodeTryAgainLater, "the kubelet tries again",
			"read NetworkAttachmentDefinition %s/%s: %w", namespace, name, err)
	}
	n := network{name: name, nad: namespace + "/" + name, resource: d.Annotations[cncfv1.AnnotationResourceName],
		config: []byte(d.Spec.Config)}
	if d.Spec.Config != "" {
		return n, nil
	}
	if n.config, err = confOfNode(name, networkDirs(s, c)); err != nil {
		return network{}, cni.Errorf(cni.CodeInvalidConfig, "set spec.config, or put such a file on every node",
			"NetworkAttachmentDefinition %s has no spec.config, and %w", n.nad, err)
	}
	return n, nil
}

// devices asks the kubelet only when a network needs a device.
func (s *Service) devices(ctx context.Context, pod *corev1.Pod, list []planned) (map[string][]string, error) {
	needed := slices.ContainsFunc(list, func(p planned) bool {
		return p.resource != "" || p.selection != nil &&
			p.selection.DeviceID != ""
	})
	if !needed {
		return nil, nil
	}
	devices, err := s.Devices.Devices(ctx, pod.Namespace, pod.Name)
	if err != nil {
		return nil, cni.Errorf(cni.CodeTryAgainLater, "the kubelet tries again",
			"ask the kubelet for the pod's devices: %w", err)
	}
	return devices, nil
}

// configure gives every network its device and makes the configuration that is run.
func (s *Service) configure(c *call, list []planned, allocated map[string][]string) error {
	wishes := make([]nad.DeviceWish, len(list))
	for i, p := range list {
		wishes[i] = nad.DeviceWish{Network: p.title(), Resource: p.resource}
		if p.selection != nil {
			wishes[i].DeviceID = p.selection.DeviceID
		}
	}
	devices, err := nad.AssignDevices(wishes, allocated)
	if err != nil {
		return cni.Errorf(cni.CodeInvalidConfig, "", "%w", err)
	}
	for i := range list {
		p := &list[i]
		p.deviceID = devices[i]
		base := map[string]any(nil)
		if i == 0 {
			base = c.conf.RuntimeConfig
		}
		if err := p.parse(); err != nil {
			return err
		}
		if p.args, err = nad.Arguments(c.argsText, p.config, p.selection); err != nil {
			return cni.Errorf(cni.CodeInvalidConfig, "", "%w", err)
		}
		p.capabilities = nad.CapabilityArgs(base, p.selection, p.deviceID, p.deviceInfoFile(c.containerID))
		if err := s.runner.Installed(p.list, c.binDirs); err != nil {
			return err
		}
	}
	return nil
}

func (p *planned) parse() error {
	config, err := nad.Configure(p.config, p.name, p.selection, p.deviceID)
	if err == nil {
		err = nad.CheckDeliverable(config, p.selection)
	}
	if err != nil {
		return cni.Errorf(cni.CodeInvalidConfig, "", "%w", err)
	}
	p.config = config
	if p.list, err = cni.Parse(config); err != nil {
		return fmt.Errorf("network %s: %w", p.title(), err)
	}
	return nil
}

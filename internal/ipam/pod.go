// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// PodFrom takes what this package needs from a pod.
func PodFrom(p *corev1.Pod) Pod {
	pod := Pod{
		Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), Node: p.Spec.NodeName,
		Labels: p.Labels, Annotations: p.Annotations,
		Controller: Controller{Kind: "Pod", Name: p.Name}, Known: Known(p),
	}
	owner := metav1.GetControllerOf(p)
	if owner == nil {
		return pod
	}
	pod.Controller = controllerAbove(owner, p.Labels)
	if keepsAddresses(owner) {
		pod.Owner = &v2beta1.LeaseOwner{APIVersion: owner.APIVersion, Kind: owner.Kind, Name: owner.Name}
	}
	return pod
}

// keepsAddresses tells the owners whose pods come again under an identity of their own: those of a
// StatefulSet by their names, and that of a virtual machine, whose instance has the machine's name.
// KubeVirt's version says nothing here.
func keepsAddresses(owner *metav1.OwnerReference) bool {
	version, err := schema.ParseGroupVersion(owner.APIVersion)
	if err != nil {
		return false
	}
	return owner.Kind == v2beta1.OwnerStatefulSet && version == appsv1.SchemeGroupVersion ||
		owner.Kind == v2beta1.OwnerVirtualMachineInstance && version.Group == "kubevirt.io"
}

// controllerAbove names the Deployment of a ReplicaSet without reading the
// ReplicaSet: its name is the Deployment's, a dash, and the template's hash.
func controllerAbove(owner *metav1.OwnerReference, podLabels map[string]string) Controller {
	hash := podLabels[appsv1.DefaultDeploymentUniqueLabelKey]
	if owner.Kind == "ReplicaSet" && hash != "" {
		if name, ok := strings.CutSuffix(owner.Name, "-"+hash); ok {
			return Controller{Kind: "Deployment", Name: name}
		}
	}
	return Controller{Kind: owner.Kind, Name: owner.Name}
}

// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

func TestPodFrom(t *testing.T) {
	owner := func(apiVersion, kind, name string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: name, Controller: new(true)}}
	}
	tests := []struct {
		name       string
		owners     []metav1.OwnerReference
		labels     map[string]string
		owner      *v2beta1.LeaseOwner
		controller Controller
	}{
		{name: "bare", controller: Controller{"Pod", "p"}},
		{name: "owned by what does not control it",
			owners:     []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db"}},
			controller: Controller{"Pod", "p"}},
		{name: "DaemonSet", owners: owner("apps/v1", "DaemonSet", "ib-sriov"), controller: Controller{"DaemonSet",
			"ib-sriov"}},
		{name: "Deployment", owners: owner("apps/v1", "ReplicaSet", "web-5d4f"),
			labels: map[string]string{"pod-template-hash": "5d4f"}, controller: Controller{"Deployment", "web"}},
		{name: "ReplicaSet of its own", owners: owner("apps/v1", "ReplicaSet", "web"),
			controller: Controller{"ReplicaSet", "web"}},
		{name: "StatefulSet", owners: owner("apps/v1", "StatefulSet", "db"),
			owner:      &v2beta1.LeaseOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db"},
			controller: Controller{"StatefulSet", "db"}},
		{name: "StatefulSet of somebody else", owners: owner("apps.kruise.io/v1beta1", "StatefulSet", "db"),
			controller: Controller{"StatefulSet", "db"}},
		{name: "virtual machine", owners: owner("kubevirt.io/v1", "VirtualMachineInstance", "vm"),
			owner:      &v2beta1.LeaseOwner{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance", Name: "vm"},
			controller: Controller{"VirtualMachineInstance", "vm"}},
		{name: "virtual machine of an older KubeVirt", owners: owner("kubevirt.io/v1alpha3", "VirtualMachineInstance",
			"vm"),
			owner: &v2beta1.LeaseOwner{APIVersion: "kubevirt.io/v1alpha3", Kind: "VirtualMachineInstance",
				Name: "vm"},
			controller: Controller{"VirtualMachineInstance", "vm"}},
		{name: "virtual machine of somebody else", owners: owner("example.com/v1", "VirtualMachineInstance", "vm"),
			controller: Controller{"VirtualMachineInstance", "vm"}},
		{name: "another kind of KubeVirt's", owners: owner("kubevirt.io/v1", "VirtualMachineInstanceMigration", "vm"),
			controller: Controller{"VirtualMachineInstanceMigration", "vm"}},
		{name: "unreadable version", owners: owner("a/b/c", "StatefulSet", "db"), controller: Controller{"StatefulSet",
			"db"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := PodFrom(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: "p", UID: "u", Labels: test.labels,
				Annotations: map[string]string{"a": "b"}, OwnerReferences: test.owners,
			}, Spec: corev1.PodSpec{NodeName: "n1"}})
			want := Pod{Namespace: "default", Name: "p", UID: "u", Node: "n1", Labels: test.labels,
				Annotations: map[string]string{"a": "b"},
				Owner:       test.owner, Controller: test.controller}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("pod (-want +got):\n%s", diff)
			}
		})
	}
}

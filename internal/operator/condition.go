// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

// applyCondition writes one condition of a node's state and no other: the agent has conditions in
// the same list. Each of the operator's conditions is applied under an owner of its own, so that to
// apply one does not remove another.
func applyCondition(ctx context.Context, c client.Client, state *v1.SriovNetworkNodeState, owner string,
	condition metav1.Condition) error {
	condition.ObservedGeneration = state.Generation
	if !meta.SetStatusCondition(&state.Status.Conditions, condition) {
		return nil
	}
	stored := meta.FindStatusCondition(state.Status.Conditions, condition.Type)
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(stored)
	if err != nil {
		return fmt.Errorf("convert condition %s of SriovNetworkNodeState %s: %w", condition.Type, state.Name, err)
	}
	patch := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"conditions": []any{content}}}}
	patch.SetGroupVersionKind(v1.GroupVersion.WithKind("SriovNetworkNodeState"))
	patch.SetNamespace(state.Namespace)
	patch.SetName(state.Name)
	if err := c.SubResource("status").Apply(ctx, client.ApplyConfigurationFromUnstructured(patch),
		client.ForceOwnership, client.FieldOwner(owner)); err != nil {
		return fmt.Errorf("write condition %s of SriovNetworkNodeState %s: %w", condition.Type, state.Name, err)
	}
	return nil
}

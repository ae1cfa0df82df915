// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/attach"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/text"
)

// cluster answers what package attach asks of the cluster: from the caches of
// this node's pods and of all networks, else from the API server.
type cluster struct {
	client client.Client // reads from caches
	live   client.Reader
}

// Cached implements attach.PodSource.
func (c *cluster) Cached(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return getPod(ctx, c.client, namespace, name)
}

// Live implements attach.PodSource.
func (c *cluster) Live(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return getPod(ctx, c.live, namespace, name)
}

func getPod(ctx context.Context, r client.Reader, namespace, name string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	if err := get(ctx, r, namespace, name, pod); err != nil {
		return nil, fmt.Errorf("reading pod %s/%s: %w", namespace, name, err)
	}
	return pod, nil
}

// Network implements attach.NetworkSource. A network that the cache lacks may be a moment old.
func (c *cluster) Network(ctx context.Context, namespace, name string) (*cncfv1.NetworkAttachmentDefinition, error) {
	nad := &cncfv1.NetworkAttachmentDefinition{}
	err := get(ctx, c.client, namespace, name, nad)
	if err != nil {
		err = get(ctx, c.live, namespace, name, nad)
	}
	if err != nil {
		return nil, fmt.Errorf("reading NetworkAttachmentDefinition %s/%s: %w", namespace, name, err)
	}
	return nad, nil
}

func get(ctx context.Context, r client.Reader, namespace, name string, into client.Object) error {
	err := r.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, into)
	if apierrors.IsNotFound(err) {
		return attach.ErrNotFound
	}
	return err
}

// namespaceAnnotations are those that the cache has; it is the cache that the address leases read
// namespaces from.
func (c *cluster) namespaceAnnotations(namespace string) map[string]string {
	o := &corev1.Namespace{}
	if err := c.client.Get(context.Background(), types.NamespacedName{Name: namespace}, o); err != nil {
		return nil
	}
	return o.Annotations
}

// Coordinator implements coordinator.Cluster: the SpiderCoordinator named default, or nothing.
func (c *cluster) Coordinator(ctx context.Context) (spec v2beta1.CoordinatorSpec, status v2beta1.CoordinatorStatus,
	err error) {
	o := &v2beta1.SpiderCoordinator{}
	err = c.client.Get(ctx, types.NamespacedName{Name: v2beta1.DefaultCoordinatorName}, o)
	if client.IgnoreNotFound(err) != nil {
		return spec, status, fmt.Errorf("reading SpiderCoordinator %s: %w", v2beta1.DefaultCoordinatorName, err)
	}
	return o.Spec, o.Status, nil
}

// WriteStatus implements attach.StatusWriter. The UID in the patch makes the
// API server refuse it for another pod of the same name.
func (c *cluster) WriteStatus(ctx context.Context, pod ledger.Pod, status string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": pod.UID, "annotations": map[string]string{cncfv1.AnnotationNetworkStatus: status},
	}})
	if err != nil {
		return fmt.Errorf("encoding the network status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	object := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
	err = c.client.Status().Patch(ctx, object, client.RawPatch(types.MergePatchType, patch))
	if apierrors.IsNotFound(err) || isOtherUID(err) {
		return fmt.Errorf("pod %s/%s with UID %s: %w", pod.Namespace, pod.Name, pod.UID, attach.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("writing the network status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// isOtherUID tells whether a write was refused because the object has another UID than the patch.
// The API server calls that an invalid change of an immutable field when the UID is patched, and a
// conflict elsewhere.
func isOtherUID(err error) bool {
	if apierrors.IsConflict(err) {
		return true
	}
	status := apierrors.APIStatus(nil)
	if !apierrors.IsInvalid(err) || !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(status.Status().Details.Causes,
		func(c metav1.StatusCause) bool { return c.Field == "metadata.uid" })
}

// recorder writes events about the attachment of a pod's networks.
type recorder struct{ events.EventRecorder }

// Event implements attach.Recorder. The API server refuses an event with a longer note, and the
// message would be lost.
func (r recorder) Event(object runtime.Object, eventType, reason, message string) {
	r.Eventf(object, nil, eventType, reason, "Attach", "%s", text.Note(message))
}

// lost tells at a pod that its address is another's.
func (r recorder) lost(holder v2beta1.LeasePod, why string) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: holder.Namespace, Name: holder.Name,
		UID: types.UID(holder.UID)}}
	r.Event(pod, corev1.EventTypeWarning, "AddressLost", why)
}

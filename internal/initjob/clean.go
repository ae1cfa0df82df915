// SPDX-License-Identifier: Apache-2.0

package initjob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

// CleanOptions of Clean.
type CleanOptions struct {
	// Client reads and writes the API server directly.
	Client client.Client
	// Namespace is the release's.
	Namespace string
	// Controller is the name of the Deployment and of both webhook configurations.
	Controller string
	// Operator is the name of the sriov-operator's Deployment, which need not exist.
	Operator string
	// InitPod is the pod that Run ran in; Helm leaves hooks behind.
	InitPod string
	// Timeout bounds the whole run.
	Timeout time.Duration
	// Out takes one line for each thing done.
	Out io.Writer
}

// stopTimeout bounds the wait for the controller's pods; a node that is gone must not hold up the rest.
const stopTimeout = time.Minute

// Clean takes away what would block people once the controller is gone. First it stops the
// controller and the sriov-operator, which would put things back; then it removes the webhooks,
// which nobody would answer, and our finalizers, which nobody would remove. Objects stay: pools and
// networks are their users', and a later installation finds them again. It goes on after a failure,
// and may be repeated.
func Clean(ctx context.Context, o CleanOptions) error {
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("gave up after %s", o.Timeout))
	defer cancel()
	errs := []error{
		o.stop(ctx, o.Controller),
		o.stop(ctx, o.Operator),
		o.delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: o.InitPod}}),
		o.delete(ctx, &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: o.Controller}}),
		o.delete(ctx, &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: o.Controller}}),
	}
	for _, list := range []client.ObjectList{
		&v2beta1.SpiderIPPoolList{}, &v2beta1.SpiderReservedIPList{}, &v2beta1.SpiderIPLeaseList{},
		&v2beta1.SpiderEndpointList{}, &v2beta1.SpiderMultusConfigList{}, &v2beta1.SpiderCoordinatorList{},
	} {
		errs = append(errs, o.removeFinalizers(ctx, list, v2beta1.Finalizer))
	}
	errs = append(errs, o.removeFinalizers(ctx, &sriovv1.SriovIBNetworkList{}, sriovv1.FinalizerNetwork,
		client.InNamespace(o.Namespace)))
	return errors.Join(errs...)
}

// stop scales a Deployment to nothing and waits until its pods are gone.
func (o CleanOptions) stop(ctx context.Context, name string) error {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: name}}
	err := o.Client.Get(ctx, client.ObjectKeyFromObject(d), d)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading Deployment %s: %w", name, err)
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return fmt.Errorf("reading the selector of Deployment %s: %w", name, err)
	}
	if ptr.Deref(d.Spec.Replicas, 1) > 0 {
		nothing := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":0}}`))
		if err := o.Client.SubResource("scale").Patch(ctx, d, nothing,
			client.WithSubResourceBody(&autoscalingv1.Scale{})); err != nil {
			return fmt.Errorf("stopping Deployment %s: %w", name, err)
		}
		fmt.Fprintf(o.Out, "stopped Deployment %s\n", name)
	}
	pods := &corev1.PodList{}
	err = wait.PollUntilContextTimeout(ctx, time.Second, stopTimeout, true, func(ctx context.Context) (bool, error) {
		err := o.Client.List(ctx, pods, client.InNamespace(o.Namespace),
			client.MatchingLabelsSelector{Selector: selector})
		return err == nil && len(pods.Items) == 0, err
	})
	if err != nil {
		return fmt.Errorf("waiting for the %d pods of Deployment %s to end: %w", len(pods.Items), name, err)
	}
	return nil
}

func (o CleanOptions) delete(ctx context.Context, object client.Object) error {
	err := o.Client.Delete(ctx, object)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("deleting %s %s: %w", kind(object), object.GetName(), err)
	}
	fmt.Fprintf(o.Out, "deleted %s %s\n", kind(object), object.GetName())
	return nil
}

func (o CleanOptions) removeFinalizers(ctx context.Context, list client.ObjectList, finalizer string,
	options ...client.ListOption) error {
	err := o.Client.List(ctx, list, options...)
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return nil // the CRD is gone, and its objects with it
	}
	if err != nil {
		return fmt.Errorf("listing %s: %w", kind(list), err)
	}
	var errs []error
	err = meta.EachListItem(list, func(item runtime.Object) error {
		errs = append(errs, o.removeFinalizer(ctx, item.(client.Object), finalizer))
		return nil
	})
	return errors.Join(append(errs, err)...)
}

func (o CleanOptions) removeFinalizer(ctx context.Context, object client.Object, finalizer string) error {
	if !controllerutil.ContainsFinalizer(object, finalizer) {
		return nil
	}
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if err := o.Client.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		before := object.DeepCopyObject().(client.Object)
		controllerutil.RemoveFinalizer(object, finalizer)
		return o.Client.Patch(ctx, object, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing the finalizer of %s %s: %w", kind(object), client.ObjectKeyFromObject(object), err)
	}
	fmt.Fprintf(o.Out, "removed the finalizer of %s %s\n", kind(object), client.ObjectKeyFromObject(object))
	return nil
}

// kind is the name of an object's type, for people.
func kind(object any) string { return reflect.TypeOf(object).Elem().Name() }

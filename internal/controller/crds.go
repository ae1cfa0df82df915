// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/config"
)

// fieldOwner is the name under which the controller applies objects.
const fieldOwner = "spiderpool-controller"

// establishTimeout bounds the wait for the API server to serve a new kind.
const establishTimeout = time.Minute

// applyCRDs brings the CRDs of this version, which Helm installs once and never updates, and waits
// until all are served. Those of a group that other products install too are left alone when they
// are not ours.
func applyCRDs(ctx context.Context, c client.Client, log *slog.Logger) error {
	crds, err := config.CRDs()
	if err != nil {
		return err
	}
	for _, crd := range crds {
		foreign, err := foreignCRD(ctx, c, crd)
		if err != nil {
			return err
		}
		if foreign {
			log.Info("left alone a CRD that another product has installed; fields that it lacks are lost", "crd",
				crd.Name,
				"remedy",
				fmt.Sprintf("when no other product uses it: kubectl label crd %s %s=%s, and start the controller again",
					crd.Name, config.LabelPartOf, config.PartOf))
			continue
		}
		if err := applyCRD(ctx, c, crd); err != nil {
			return err
		}
	}
	for _, crd := range crds {
		if err := waitEstablished(ctx, c, crd.Name); err != nil {
			return err
		}
	}
	return nil
}

// foreignCRD tells whether the cluster has this CRD from another product. The group
// spiderpool.spidernet.io is always ours.
func foreignCRD(ctx context.Context, c client.Client, crd *apiextensionsv1.CustomResourceDefinition) (bool, error) {
	if crd.Spec.Group == v2beta1.GroupVersion.Group {
		return false, nil
	}
	found := &apiextensionsv1.CustomResourceDefinition{}
	err := c.Get(ctx, client.ObjectKeyFromObject(crd), found)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading CRD %s: %w", crd.Name, err)
	}
	return found.Labels[config.LabelPartOf] != config.PartOf, nil
}

func applyCRD(ctx context.Context, c client.Client, crd *apiextensionsv1.CustomResourceDefinition) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(crd)
	if err != nil {
		return fmt.Errorf("converting CRD %s: %w", crd.Name, err)
	}
	delete(content, "status") // the API server's
	object := &unstructured.Unstructured{Object: content}
	err = c.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner(fieldOwner),
		client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("applying CRD %s: %w", crd.Name, err)
	}
	return nil
}

func waitEstablished(ctx context.Context, c client.Client, name string) error {
	problem := "the API server has not looked at it"
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, establishTimeout, true,
		func(ctx context.Context) (bool, error) {
			crd := &apiextensionsv1.CustomResourceDefinition{}
			if err := c.Get(ctx, client.ObjectKey{Name: name}, crd); err != nil {
				return false, err
			}
			for _, condition := range crd.Status.Conditions {
				if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
					return true, nil
				}
				if condition.Status == apiextensionsv1.ConditionFalse {
					problem = condition.Message
				}
			}
			return false, nil
		})
	if err != nil {
		return fmt.Errorf("waiting for the API server to serve CRD %s (%s): %w", name, problem, err)
	}
	return nil
}

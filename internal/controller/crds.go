// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/config"
)

// fieldOwner is the name under which the controller applies objects.
const fieldOwner = "spiderpool-controller"

// establishTimeout bounds the wait for the API server to serve a new kind.
const establishTimeout = time.Minute

// crdInstaller brings the CRDs of this version, which Helm installs once and never updates.
type crdInstaller struct {
	client client.Client
	log    *slog.Logger
	// version is the program's, such as v0.2.0.
	version string
	// takeOver replaces CRDs of other products.
	takeOver bool
	// sriov is set when the product serves the kinds of the group sriovnetwork.openshift.io.
	sriov bool
}

// apply brings the CRDs and waits until all are served.
func (i crdInstaller) apply(ctx context.Context) error {
	crds, err := config.CRDs()
	if err != nil {
		return err
	}
	var faults []error
	for _, crd := range crds {
		found := &apiextensionsv1.CustomResourceDefinition{}
		err := i.client.Get(ctx, client.ObjectKeyFromObject(crd), found)
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("read CRD %s: %w", crd.Name, err)
		}
		if err == nil {
			keep, fault := i.keep(found, crd)
			if fault != nil {
				faults = append(faults, fault)
			}
			if keep || fault != nil {
				continue
			}
		}
		metav1.SetMetaDataAnnotation(&crd.ObjectMeta, annotationVersion, i.version)
		if err := applyCRD(ctx, i.client, crd); err != nil {
			return err
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	for _, crd := range crds {
		if err := waitEstablished(ctx, i.client, crd.Name); err != nil {
			return err
		}
	}
	return nil
}

// shownFaults is how many faults of a CRD an error lists.
const shownFaults = 3

// keep decides about a CRD that the cluster has: true leaves it as it is, false replaces it, and an
// error means that the product can neither use nor replace it.
func (i crdInstaller) keep(found, want *apiextensionsv1.CustomResourceDefinition) (bool, error) {
	faults := crdFaults(found, want)
	shown := strings.Join(faults[:min(len(faults), shownFaults)], ", ")
	if more := len(faults) - shownFaults; more > 0 {
		shown += fmt.Sprintf(", and %d more", more)
	}
	if ownCRD(found) {
		installed := found.Annotations[annotationVersion]
		if !newerThan(installed, i.version) {
			return false, nil
		}
		if len(faults) > 0 {
			return false, fmt.Errorf("install CRD %s of version %s: the newer version %s installed it, and %s: "+
				"run %s or a newer version", found.Name, i.version, installed, shown, installed)
		}
		i.log.Info("left alone a CRD that a newer version has installed", "crd", found.Name, "version", installed)
		return true, nil
	}
	owner := crdOwner(found)
	switch {
	case i.takeOver:
		i.log.Warn("replacing the CRD of another product, as crds.takeOver asks", "crd", found.Name, "owner", owner)
		return false, nil
	case len(faults) == 0:
		i.log.Info("left alone the CRD of another product: it has all fields", "crd", found.Name, "owner", owner)
		return true, nil
	case found.Spec.Group == sriovv1.GroupVersion.Group && !i.sriov:
		i.log.Info("left alone the CRD of another product: sriov.install is off", "crd", found.Name, "owner", owner)
		return true, nil
	}
	return false, fmt.Errorf("install CRD %s: it belongs to %s, and %s: expected a CRD with all versions and fields "+
		"that this version uses; uninstall the other product with its CRDs, or, when it is not in use, set "+
		"crds.takeOver=true to replace them", found.Name, owner, shown)
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

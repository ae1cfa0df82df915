// SPDX-License-Identifier: Apache-2.0

package networks

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// empty reads an API server without objects.
func empty(t *testing.T) client.Reader {
	t.Helper()
	api := runtime.NewScheme()
	if err := cncfv1.AddToScheme(api); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(api).Build()
}

// What was stored before a rule existed can be labelled; a change of the network is judged whole.
func TestUpdatesOfWhatWasStoredBeforeARule(t *testing.T) {
	labelled := metav1.ObjectMeta{Name: "default", Namespace: "default", Labels: map[string]string{"team": "a"}}
	before := &v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default"}}
	after := &v2beta1.SpiderMultusConfig{ObjectMeta: labelled}
	// without a master
	before.Spec.IpoibConfig, after.Spec.IpoibConfig = &v2beta1.SpiderIPoIBCniConfig{}, &v2beta1.SpiderIPoIBCniConfig{}
	if _, err := (multusValidator{reader: empty(t)}).ValidateUpdate(t.Context(), before, after); err != nil {
		t.Errorf("a label on a SpiderMultusConfig: %v", err)
	}
	after.Spec.IpoibConfig.Master = "a b"
	if _, err := (multusValidator{reader: empty(t)}).ValidateUpdate(t.Context(), before, after); err == nil {
		t.Error("a wrong change of a SpiderMultusConfig was admitted")
	}
	was := &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "default"},
		Spec: v2beta1.CoordinatorSpec{HijackCIDR: []string{"junk"}}}
	is := &v2beta1.SpiderCoordinator{ObjectMeta: labelled, Spec: v2beta1.CoordinatorSpec{HijackCIDR: []string{"junk"}}}
	if _, err := (coordinatorAdmission{}).ValidateUpdate(t.Context(), was, is); err != nil {
		t.Errorf("a label on a SpiderCoordinator: %v", err)
	}
	is.Spec.HijackCIDR = []string{"more junk"}
	if _, err := (coordinatorAdmission{}).ValidateUpdate(t.Context(), was, is); err == nil {
		t.Error("a wrong change of a SpiderCoordinator was admitted")
	}
}

// SPDX-License-Identifier: Apache-2.0

package testapi_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/testapi"
)

func TestMain(m *testing.M) { testapi.Main(m) }

func TestServerHasOurKinds(t *testing.T) {
	c := testapi.Start(t).Client(t)
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{GenerateName: "v4-"},
		Spec: v2beta1.IPPoolSpec{Subnet: "192.0.2.0/24"}}
	if err := c.Create(t.Context(), pool); err != nil {
		t.Fatalf("create a pool: %v", err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "testapi-"}}
	if err := c.Create(t.Context(), namespace); err != nil {
		t.Fatalf("create a namespace: %v", err)
	}
}

func TestOneServerForAllTests(t *testing.T) {
	if first, second := testapi.Start(t), testapi.Start(t); first != second {
		t.Fatal("two servers started")
	}
}

// SPDX-License-Identifier: Apache-2.0

// Package testapi owns the real Kubernetes API server that tests talk to: one
// for each test package, started when the first test asks for it and stopped
// by Main. It installs the project's CRDs from config/crd. It knows no
// controller and no agent; product code never imports it.
//
//	func TestMain(m *testing.M) { testapi.Main(m) }
//
//	func TestPool(t *testing.T) {
//		api := testapi.Start(t)
//		c := api.Client(t)
//		…
//	}
package testapi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	spiderpoolv2beta1 "spidernet.io/spiderpool/api/spiderpool/v2beta1"
	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/config"
)

// assetsEnv names the directory with etcd, kube-apiserver and kubectl; envtest reads it too.
const assetsEnv = "KUBEBUILDER_ASSETS"

// API is a running API server with the project's CRDs.
type API struct {
	// Config reaches the server as a cluster administrator.
	Config *rest.Config
	// Scheme has Kubernetes' own types and the project's three groups.
	Scheme *apiruntime.Scheme

	env *envtest.Environment
}

// shared is the one server of this test binary.
var shared struct {
	once sync.Once
	api  *API
	err  error
}

// Main runs the tests of a package, stops the server if one was started, and exits.
func Main(m *testing.M) {
	log.SetLogger(logr.Discard())
	code := m.Run()
	if shared.api != nil {
		if err := shared.api.env.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "testapi: stop the API server:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// Start returns the test package's API server and starts it on the first call.
// It fails the test, and does not skip it, when the server cannot run.
func Start(t testing.TB) *API {
	t.Helper()
	shared.once.Do(func() { shared.api, shared.err = start() })
	if shared.err != nil {
		t.Fatalf("testapi: %v", shared.err)
	}
	return shared.api
}

// Client returns a client that reads and writes the server directly, without a cache.
func (a *API) Client(t testing.TB) client.Client {
	t.Helper()
	c, err := client.New(a.Config, client.Options{Scheme: a.Scheme})
	if err != nil {
		t.Fatalf("testapi: make a client: %v", err)
	}
	return c
}

// Change reads o, applies change to it and writes it, again when somebody else wrote it in between. Tests
// that edit what a running controller writes too need it: a version that was read earlier may be old by then.
// The error is the API server's.
func Change(ctx context.Context, c client.Client, o client.Object, change func()) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		change()
		return c.Update(ctx, o)
	})
}

// Scheme returns a scheme with Kubernetes' own types and the project's three groups.
func Scheme() (*apiruntime.Scheme, error) {
	s := apiruntime.NewScheme()
	return s, errors.Join(
		clientgoscheme.AddToScheme(s),
		spiderpoolv2beta1.AddToScheme(s),
		sriovv1.AddToScheme(s),
		cncfv1.AddToScheme(s),
	)
}

func start() (*API, error) {
	if os.Getenv(assetsEnv) == "" {
		return nil, fmt.Errorf("%s is not set: it names the directory with etcd, kube-apiserver and kubectl; "+
			"run `make kube` to build them, then `make test-unit`, which sets it", assetsEnv)
	}
	scheme, err := Scheme()
	if err != nil {
		return nil, fmt.Errorf("build the scheme: %w", err)
	}
	crds, err := config.CRDs()
	if err != nil {
		return nil, err
	}
	env := &envtest.Environment{
		Scheme:                   scheme,
		CRDs:                     crds,
		ControlPlaneStartTimeout: 2 * time.Minute, // a loaded two-core machine
		ControlPlaneStopTimeout:  time.Minute,
	}
	reached, err := env.Start()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the API server from %s: %w", os.Getenv(assetsEnv), err), env.Stop())
	}
	return &API{Config: reached, Scheme: scheme, env: env}, nil
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"spidernet.io/spiderpool/config"
	"spidernet.io/spiderpool/internal/scheme"
)

// assetsEnv names the directory with etcd and kube-apiserver; envtest reads it too.
const assetsEnv = "KUBEBUILDER_ASSETS"

// server is a running API server with the project's CRDs.
type server struct {
	env    *envtest.Environment
	config *rest.Config
	scheme *runtime.Scheme
	mapper meta.RESTMapper
	// admin is for what is not measured; nothing slows it down.
	admin client.Client
	http  *http.Client
}

func startServer() (*server, error) {
	if os.Getenv(assetsEnv) == "" {
		return nil,
			fmt.Errorf("%s is not set: it names the directory with etcd and kube-apiserver; `make bench-ipam` sets it",
				assetsEnv)
	}
	crds, err := config.CRDs()
	if err != nil {
		return nil, err
	}
	s := &server{scheme: scheme.New()}
	s.env = &envtest.Environment{
		Scheme: s.scheme, CRDs: crds,
		ControlPlaneStartTimeout: 2 * time.Minute, ControlPlaneStopTimeout: time.Minute, // a loaded two-core machine
	}
	// it only tidies up between scenarios
	s.env.ControlPlane.GetAPIServer().Configure().Set("delete-collection-workers", "8")
	if s.config, err = s.env.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the API server from %s: %w", os.Getenv(assetsEnv), err), s.env.Stop())
	}
	if err := s.connect(); err != nil {
		return nil, errors.Join(err, s.env.Stop())
	}
	return s, nil
}

// connect makes the client for what is not measured.
func (s *server) connect() (err error) {
	plain := rest.CopyConfig(s.config)
	plain.QPS = -1
	if s.http, err = rest.HTTPClientFor(plain); err != nil {
		return fmt.Errorf("make an HTTP client of the API server: %w", err)
	}
	if s.mapper, err = apiutil.NewDynamicRESTMapper(plain, s.http); err != nil {
		return fmt.Errorf("learn the API server's kinds: %w", err)
	}
	if s.admin, err = client.New(plain, client.Options{Scheme: s.scheme, Mapper: s.mapper,
		HTTPClient: s.http}); err != nil {
		return fmt.Errorf("make a client of the API server: %w", err)
	}
	return nil
}

// agentConfig is how an agent reaches the API server: with the limits of package process, and by a
// connection of its own.
func (s *server) agentConfig(m *meter) *rest.Config {
	c := rest.CopyConfig(s.config)
	c.QPS, c.Burst = 100, 200
	c.Dial = (&net.Dialer{}).DialContext // client-go shares the connections of configurations without a dialer
	c.Wrap(m.wrap)
	return c
}

// requests reads how many requests the API server itself has answered.
func (s *server) requests(ctx context.Context) (map[asked]int64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(s.config.Host, "/")+"/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("read the API server's metrics: %w", err)
	}
	response, err := s.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("read the API server's metrics: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read the API server's metrics: it answers %s", response.Status)
	}
	return parseRequests(response.Body)
}

func (s *server) stop() error {
	if err := s.env.Stop(); err != nil {
		return fmt.Errorf("stop the API server: %w", err)
	}
	return nil
}

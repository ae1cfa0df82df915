// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"spidernet.io/spiderpool/internal/process"
	"spidernet.io/spiderpool/internal/settings"
)

// environment is the annotation of a flag that names its environment variable.
const environment = "environment"

// env names the environment variable of a flag, in its help text too.
func env(flags *pflag.FlagSet, flag, variable string) {
	f := flags.Lookup(flag)
	f.Annotations = map[string][]string{environment: {variable}}
	f.Usage += " ($" + variable + ")"
}

// readEnvironment sets the flags that were not given from their environment variables.
func readEnvironment(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || len(f.Annotations[environment]) == 0 {
			return
		}
		variable := f.Annotations[environment][0]
		value, ok := lookup(variable)
		if !ok || (value == "" && f.Value.Type() != "string") {
			return
		}
		if err := f.Value.Set(value); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s is %q, which is not a value of type %s: %w",
				variable, value, f.Value.Type(), err))
		}
	})
	return errors.Join(errs...)
}

// common are the flags of every process.
type common struct {
	namespace string
	logLevel  string
}

func (c *common) add(flags *pflag.FlagSet) {
	flags.StringVar(&c.namespace, "namespace", "kube-system", "namespace of the product")
	env(flags, "namespace", "POD_NAMESPACE")
	flags.StringVar(&c.logLevel, "log-level", "info", "debug, info, warn or error")
	env(flags, "log-level", "SPIDERPOOL_LOG_LEVEL")
}

// start makes the process's logger, which the libraries use too, and reads how to reach the API server.
func (c *common) start() (*slog.Logger, *rest.Config, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.logLevel)); err != nil {
		return nil, nil, fmt.Errorf("the log level is %q, want debug, info, warn or error", c.logLevel)
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	slog.SetDefault(log)
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	klog.SetSlogLogger(log)
	config, err := ctrl.GetConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("finding the API server, in a pod or by KUBECONFIG: %w", err)
	}
	return log, config, nil
}

// endpoints are the flags of the processes that serve health and metrics.
type endpoints struct {
	healthHost              string
	healthPort, metricsPort int
	metrics                 bool
}

func (e *endpoints) add(flags *pflag.FlagSet, healthPort, metricsPort int) {
	flags.StringVar(&e.healthHost, "health-address", "127.0.0.1",
		"address of the health endpoints; empty for all addresses")
	env(flags, "health-address", "SPIDERPOOL_HEALTH_ADDRESS")
	flags.IntVar(&e.healthPort, "health-port", healthPort, "port of the health endpoints")
	env(flags, "health-port", "SPIDERPOOL_HEALTH_PORT")
	flags.BoolVar(&e.metrics, "metrics", false, "serve metrics")
	env(flags, "metrics", "SPIDERPOOL_ENABLED_METRIC")
	flags.IntVar(&e.metricsPort, "metrics-port", metricsPort, "port of the metrics, on all addresses")
	env(flags, "metrics-port", "SPIDERPOOL_METRIC_HTTP_PORT")
}

func (e *endpoints) healthAddress() string { return process.Address(e.healthHost, e.healthPort) }

// metricsAddress is empty when metrics are off.
func (e *endpoints) metricsAddress() string {
	if !e.metrics {
		return ""
	}
	return process.Address("", e.metricsPort)
}

func addReplicas(flags *pflag.FlagSet, replicas *int) {
	flags.IntVar(replicas, "replicas", 1,
		"how many replicas are meant to run; with several, another one leads within 15 seconds of the leader's loss")
	env(flags, "replicas", "SPIDERPOOL_REPLICAS")
}

func addSettings(flags *pflag.FlagSet, path *string) {
	flags.StringVar(path, "config", settings.DefaultPath,
		"file of the options that all processes share; the defaults count when it does not exist")
}

func addResourcePrefix(flags *pflag.FlagSet, prefix *string) {
	flags.StringVar(prefix, "resource-prefix", "spidernet.io",
		"prefix of the nodes' resources: <prefix>/<resourceName>")
	env(flags, "resource-prefix", "RESOURCE_PREFIX")
}

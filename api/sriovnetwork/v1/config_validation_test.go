// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOperatorConfigWithoutEffect(t *testing.T) {
	// What sriov-network-operator's chart installs, but for the level.
	upstream := SriovOperatorConfigSpec{EnableOperatorWebhook: true, ConfigurationMode: "daemon",
		FeatureGates: map[string]bool{"parallelNicConfig": false}}
	if got := upstream.WithoutEffect(); len(got) > 0 {
		t.Errorf("warnings %q, want none", got)
	}
	all := SriovOperatorConfigSpec{
		EnableInjector: true, LogLevel: 2, ConfigurationMode: "systemd", UseCDI: true,
		DisablePlugins: []string{"mellanox"},
		FeatureGates:   map[string]bool{"a": false, "b": true}, ConfigDaemonEnvVars: map[string]string{"A": "b"},
	}
	want := []string{
		"spec.enableInjector: resources are not injected into pods; request them in resources.limits",
		"spec.logLevel has no effect: the chart's value of this name sets the operator's level",
		"spec.configurationMode systemd has no effect: the agent configures the cards",
		"spec.useCDI has no effect: devices are given to containers without CDI",
		"spec.disablePlugins has no effect: the agent has no plugins to turn off",
		"spec.featureGates has no effect: there are no feature gates",
		"spec.configDaemonEnvVars has no effect: there is no config daemon",
	}
	if diff := cmp.Diff(want, all.WithoutEffect()); diff != "" {
		t.Error(diff)
	}
}

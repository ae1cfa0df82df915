// SPDX-License-Identifier: Apache-2.0

package v1

import "maps"

// WithoutEffect warns of settings that are part of the API and do nothing here.
func (s *SriovOperatorConfigSpec) WithoutEffect() (warnings []string) {
	warn := func(set bool, text string) {
		if set {
			warnings = append(warnings, text)
		}
	}
	gates := false
	for on := range maps.Values(s.FeatureGates) {
		gates = gates || on
	}
	warn(s.EnableInjector,
		"spec.enableInjector: resources are not injected into pods; request them in resources.limits")
	warn(s.LogLevel != 0, "spec.logLevel has no effect: the chart's value of this name sets the operator's level")
	warn(s.ConfigurationMode == "systemd",
		"spec.configurationMode systemd has no effect: the agent configures the cards")
	warn(s.UseCDI, "spec.useCDI has no effect: devices are given to containers without CDI")
	warn(len(s.DisablePlugins) > 0, "spec.disablePlugins has no effect: the agent has no plugins to turn off")
	warn(gates, "spec.featureGates has no effect: there are no feature gates")
	warn(len(s.ConfigDaemonEnvVars) > 0, "spec.configDaemonEnvVars has no effect: there is no config daemon")
	return warnings
}

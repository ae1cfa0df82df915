// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestChartRefusals gives helm what the chart must refuse, beside the release that TestGuide
// installed. Nothing of it changes. Tests run in the order of their files' names, and this one needs
// what main_test.go installs.
func TestChartRefusals(t *testing.T) {
	releases := func() string {
		t.Helper()
		return shell(t, `helm list -A -o json | jq -r '.[] | .namespace + "/" + .name + " " + .revision'`)
	}
	before := releases()
	packaged := fmt.Sprintf("%s --version %s --plain-http", chart, releaseVersion)
	for _, tt := range []struct{ name, command, want string }{
		{"The source tree's chart without a registry", "helm template spiderpool charts/spiderpool",
			"--set image.registry=registry.example.com/me,image.tag="},
		{"A second release", "helm install second " + packaged + " --namespace default",
			"belongs to release spiderpool in namespace kube-system"},
		{"A value that does not exist",
			"helm upgrade spiderpool " + packaged +
				" -n kube-system --reuse-values --set spiderpoolController.replicsa=2",
			"replicsa"},
		{"An old Kubernetes", "helm template spiderpool " + packaged + " --kube-version 1.30.9", "1.31"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := tolerant(t, tt.command)
			if err == nil {
				t.Fatalf("%s succeeded:\n%s", tt.command, out)
			}
			if answer := out + err.Error(); !strings.Contains(answer, tt.want) {
				t.Errorf("%s answered %s\nexpected %q in it", tt.command, answer, tt.want)
			}
		})
	}
	if diff := differs("releases", releases(), before); diff != "" {
		t.Error(diff)
	}
}

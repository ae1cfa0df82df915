// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// quietFor is how long nothing may be written.
const quietFor = 20 * time.Second

// listVersions prints every object with its version, but for events and for what tells that
// somebody is alive.
const listVersions = `kinds=$(kubectl api-resources --verbs=list -o name | grep -vxE 'nodes|componentstatuses|leases\.coordination\.k8s\.io|events(\.events\.k8s\.io)?' | paste -sd,)
kubectl get "$kinds" -A -o jsonpath='{range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}'`

// TestQuiet shows that nobody writes to a cluster in which nothing happens. A controller whose
// every write calls for the next one breaks nothing, and so no other test sees it; it takes its
// time from all that the nodes do.
func TestQuiet(t *testing.T) {
	eventually(t, configureLimit, func() string {
		before := versions(t)
		time.Sleep(quietFor)
		return differs("written while nothing happened", versions(t), before)
	})
}

func versions(t *testing.T) []string {
	t.Helper()
	all := strings.Split(strings.TrimSpace(shell(t, listVersions)), "\n")
	if !slices.ContainsFunc(all,
		func(line string) bool { return strings.HasPrefix(line, "NetworkAttachmentDefinition ") }) {
		t.Fatalf("the list of all objects is %q", all)
	}
	slices.Sort(all)
	return all
}

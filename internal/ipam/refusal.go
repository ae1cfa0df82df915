// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"strings"

	"spidernet.io/spiderpool/internal/text"
)

// Refusal says that an interface gets no address, and lists every pool that
// was named with the reason why it does not serve.
type Refusal struct {
	// Families are those without an address.
	Families []Family
}

// maxReasons is how many pools of a family a message lists.
const maxReasons = 20

// Error names each family, its source and the first pools with their reasons. It does not name the pod,
// because it is shown at the pod.
func (r *Refusal) Error() string {
	var families []string
	for _, f := range r.Families {
		var reasons []string
		for _, d := range f.Dropped[:min(len(f.Dropped), maxReasons)] {
			reasons = append(reasons, fmt.Sprintf("pool %s %s", text.Excerpt(d.Pool), d.Reason))
		}
		if n := len(f.Dropped) - len(reasons); n > 0 {
			reasons = append(reasons, fmt.Sprintf("and %d more pools", n))
		}
		families = append(families, fmt.Sprintf("no IPv%d address from %s: %s", f.Version, f.Source,
			strings.Join(reasons, "; ")))
	}
	return strings.Join(families, ". ")
}

// Refuse returns a *Refusal of the families that no pool may serve, nil when there are none.
func Refuse(families []Family) error {
	var without []Family
	for _, f := range families {
		if len(f.Pools) == 0 {
			without = append(without, f)
		}
	}
	if len(without) == 0 {
		return nil
	}
	return &Refusal{Families: without}
}

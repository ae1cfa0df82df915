package ipam

import (
	"fmt"
	"strings"
)

// Refusal says that an interface gets no address, and lists every pool that
// was named with the reason why it does not serve.
type Refusal struct {
	// Pod is "namespace/name".
	Pod, Interface string
	// Families are those without an address.
	Families []Family
}

// Error names each family, its source and each pool with its reason.
func (r *Refusal) Error() string {
	var families []string
	for _, f := range r.Families {
		var reasons []string
		for _, d := range f.Dropped {
			reasons = append(reasons, fmt.Sprintf("pool %s %s", d.Pool, d.Reason))
		}
		families = append(families, fmt.Sprintf("no IPv%d address from %s: %s", f.Version, f.Source, strings.Join(reasons, "; ")))
	}
	return fmt.Sprintf("pod %s, interface %s: %s", r.Pod, r.Interface, strings.Join(families, ". "))
}

// Refuse returns a *Refusal of the families that no pool may serve, nil when there are none.
func Refuse(r Request, families []Family) error {
	var without []Family
	for _, f := range families {
		if len(f.Pools) == 0 {
			without = append(without, f)
		}
	}
	if len(without) == 0 {
		return nil
	}
	return &Refusal{Pod: r.Pod.Namespace + "/" + r.Pod.Name, Interface: r.Interface, Families: without}
}

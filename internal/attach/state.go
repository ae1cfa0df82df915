package attach

import (
	"encoding/json"
	"fmt"

	"spidernet.io/spiderpool/internal/ledger"
)

// state is a plugin's memory of one attachment, in the ledger.
type state struct {
	ledger                               *ledger.Ledger
	containerID, network, ifname, plugin string
}

// Load implements cni.State.
func (s state) Load(into any) (bool, error) {
	sb, ok, err := s.ledger.Sandbox(s.containerID)
	if err != nil || !ok {
		return false, err
	}
	a := sb.Attachment(s.network, s.ifname)
	if a == nil || a.State[s.plugin] == nil {
		return false, nil
	}
	if err := json.Unmarshal(a.State[s.plugin], into); err != nil {
		return false, fmt.Errorf("read what plugin %s recorded of %s: %w", s.plugin, describe(s.network, s.ifname), err)
	}
	return true, nil
}

// Save implements cni.State.
func (s state) Save(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the state of plugin %s: %w", s.plugin, err)
	}
	return s.ledger.UpdateSandbox(s.containerID, func(sb *ledger.Sandbox) error {
		a := sb.Attachment(s.network, s.ifname)
		if a == nil {
			return fmt.Errorf("%s is not recorded", describe(s.network, s.ifname))
		}
		if a.State == nil {
			a.State = map[string]json.RawMessage{}
		}
		a.State[s.plugin] = raw
		return nil
	})
}

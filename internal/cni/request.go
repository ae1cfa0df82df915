// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/text"
)

// Plugin is one of our plugins. Add returns its result in the newest form; conversion is the runner's.
//
// Del must succeed when nothing was done, when it was done before, from any half-done Add, and when
// the network namespace is gone. Its Request may lack everything but the container ID, the
// interface name and State.
type Plugin interface {
	Add(ctx context.Context, r *Request) (*types100.Result, error)
	Del(ctx context.Context, r *Request) error
	Check(ctx context.Context, r *Request) error
}

// Beside is a plugin whose Add may run beside that of other networks of the pod until it calls
// WaitTurn: up to there it touches its own interface and device, and nothing that tells which of
// the pod's networks came first. Every other plugin waits for those before it.
type Beside interface {
	Plugin
	RunsBeside()
}

// Recorder is a plugin that saves what it has to undo before its first effect, and with it the
// attachment. Every other one is run when the attachment is on disk.
type Recorder interface {
	Plugin
	RecordsFirst()
}

// DefaultRouter is a plugin that can make an interface of a pod carry the pod's default routes, one
// for each gateway, in place of the others'.
type DefaultRouter interface {
	SetDefaultRoutes(ctx context.Context, pod host.NS, ifname string, gateways []netip.Addr) error
}

// AttachmentKey names an attachment on a node.
type AttachmentKey struct{ ContainerID, IfName string }

// LinkAliasPrefix begins the alias of every link that a plugin of ours made.
const LinkAliasPrefix = "spiderpool:"

// Recorded is an attachment of which there is a record, and its device, "" when it has none.
type Recorded struct {
	AttachmentKey
	DeviceID string
}

// Sweeper is a plugin that knows by the look of it what it made on the node, without any record:
// the records may have been lost.
type Sweeper interface {
	// Sweep puts right what it made for attachments that are not recorded, and returns what that
	// was. It asks for the records when it has looked at the node: an attachment is recorded before
	// anything is made for it.
	Sweep(recorded func() []Recorded) (swept []string, err error)
}

// Mender is a plugin that can make again what something else has taken from the node of a pod that
// runs, without the pod's noticing.
type Mender interface {
	Mend(ctx context.Context, r *Request) error
}

// DeviceReporter is a plugin that gives devices and can tell which it gave: the PCI address of the
// physical function and the name of the RDMA device, "" when there is none.
type DeviceReporter interface {
	Device(s State) (pf, rdma string, err error)
}

// Request is one call of one plugin.
type Request struct {
	ContainerID string
	NetNS       host.NS
	IfName      string
	// Args are the pairs of CNI_ARGS.
	Args map[string]string
	// Conf is the plugin's configuration object, with runtimeConfig and prevResult in it.
	Conf []byte
	// Network is the configuration's name.
	Network string
	// CNIVersion is the configuration's.
	CNIVersion string
	// Prev is the result of the plugin before this one in the list, nil for the first.
	Prev *types100.Result
	Pod  Pod
	// NAD is "namespace/name" of the NetworkAttachmentDefinition, "" when there is none.
	NAD string
	// Interfaces are the names of all interfaces of the pod, in order; nil when the caller cannot know.
	Interfaces []string
	// State keeps what the plugin needs to undo its work.
	State State
	// IPAM is the address management that the configuration names, nil when it names none.
	IPAM IPAM
	// Phases collects durations; nil collects nothing.
	Phases *Phases
	// Turn is the call's.
	Turn Turn
}

// WaitTurn returns when the networks before this one in the pod are attached, or with an error when
// that will not be.
func (r *Request) WaitTurn(ctx context.Context) error { return r.Turn.wait(ctx, r.Phases) }

// Turn waits for the networks before one in the pod; nil waits for nothing.
type Turn func(ctx context.Context) error

func (t Turn) wait(ctx context.Context, phases *Phases) error {
	if t == nil {
		return nil
	}
	defer phases.Start(PhaseTurn)()
	return t(ctx)
}

// State is a plugin's durable memory of one attachment.
type State interface {
	// Load reads what was saved last; false when nothing was.
	Load(into any) (bool, error)
	// Save is on disk when it returns.
	Save(v any) error
	// Note is on disk with the next Save of the sandbox, or else when the attachment is made: for
	// what an interrupted Add can be undone without.
	Note(v any) error
}

// IPAM is the address management of one call.
type IPAM interface {
	Add(ctx context.Context) (*types100.Result, error)
	Del(ctx context.Context) error
	Check(ctx context.Context) error
}

// ReleaseAddresses gives back what the call's address management gave, when there is one.
func (r *Request) ReleaseAddresses(ctx context.Context) error {
	if r.IPAM == nil {
		return nil
	}
	defer r.Phases.Start(PhaseAddress)()
	return r.IPAM.Del(ctx)
}

// ParseConf decodes the configuration into a plugin's own struct.
func (r *Request) ParseConf(into any) error {
	if err := json.Unmarshal(r.Conf, into); err != nil {
		return Errorf(CodeDecode, "", "the configuration does not parse: %v", err)
	}
	return nil
}

// RefusePKey refuses the partition key of a configuration, unless it is none: partitions are not
// implemented, and a pod must not be in the default partition while its network says otherwise.
func RefusePKey(raw json.RawMessage) error {
	switch strings.TrimSpace(string(raw)) {
	case "", "null", `""`:
		return nil
	}
	return Errorf(CodeInvalidConfig, `remove "pkey" from the network's configuration`,
		"pkey is %s: partitions are not implemented, and the pod would be in the default partition",
		text.Excerpt(string(raw)))
}

// parseArgs splits CNI_ARGS "A=b;C=d".
func parseArgs(s string) (map[string]string, error) {
	args := map[string]string{}
	if s == "" {
		return args, nil
	}
	for pair := range strings.SplitSeq(s, ";") {
		name, value, ok := strings.Cut(pair, "=")
		if pair == "" { // such as behind a ';' at the end
			continue
		}
		if !ok {
			return nil, fmt.Errorf("CNI_ARGS: %s is not NAME=VALUE", text.Quote(pair))
		}
		args[name] = value
	}
	return args, nil
}

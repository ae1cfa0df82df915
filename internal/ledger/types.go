// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"encoding/json"
	"slices"
	"time"

	"spidernet.io/spiderpool/internal/ib"
)

// Pod identifies a pod.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// Phase tells how far an attachment got.
type Phase string

// The phases of an attachment. Anything but Done means that the kernel may hold any part of it.
const (
	Adding   Phase = "adding"
	Done     Phase = "done"
	Deleting Phase = "deleting"
)

// Sandbox is what the node knows of one pod sandbox.
type Sandbox struct {
	// ContainerID is the runtime's name of the sandbox (CNI_CONTAINERID).
	ContainerID string `json:"containerID"`
	// NetNS is the path of its network namespace.
	NetNS string `json:"netns,omitempty"`
	Pod   Pod    `json:"pod"`
	// Created is the time of the first record.
	Created time.Time `json:"created"`
	// StatusPending: the pod's network-status has still to be written.
	StatusPending bool `json:"statusPending,omitempty"`
	// GraceSeconds is how long the pod may take to end, as it said when it was attached.
	GraceSeconds int64 `json:"graceSeconds,omitempty"`
	// Attachments are in the order in which they were made; they are undone in reverse.
	Attachments []Attachment `json:"attachments,omitempty"`
}

// Attachment is one network of a sandbox.
type Attachment struct {
	// Network is the name in the CNI configuration; with IfName it is unique in a sandbox.
	Network string `json:"network"`
	IfName  string `json:"ifname"`
	// NAD is "namespace/name" of the NetworkAttachmentDefinition, "" when the configuration came
	// from elsewhere.
	NAD string `json:"nad,omitempty"`
	// Direct are the plugins of ours that were called by themselves (by another meta plugin, or
	// cnitool), in order; Config is empty then.
	Direct []DirectCall `json:"direct,omitempty"`
	// Default marks the attachment whose result is the sandbox's.
	Default bool `json:"default,omitempty"`
	// DefaultRoute marks one that carries the pod's default route because the pod asked for it.
	DefaultRoute bool `json:"defaultRoute,omitempty"`
	// Config is the CNI configuration list as it was run.
	Config json.RawMessage `json:"config,omitempty"`
	// RuntimeConfig holds the capability arguments it was run with.
	RuntimeConfig json.RawMessage `json:"runtimeConfig,omitempty"`
	// Args and BinDirs are the CNI_ARGS and CNI_PATH it was run with.
	Args    string   `json:"args,omitempty"`
	BinDirs []string `json:"binDirs,omitempty"`
	// Resource and DeviceID name the device given to it: an extended resource and, for a network
	// card, a PCI address.
	Resource string `json:"resource,omitempty"`
	DeviceID string `json:"deviceID,omitempty"`
	Phase    Phase  `json:"phase"`
	// State is what each plugin of ours needs to undo its work, by plugin type.
	State map[string]json.RawMessage `json:"state,omitempty"`
	// Result is the CNI result, once Done.
	Result json.RawMessage `json:"result,omitempty"`
	// Error is what the last failed attempt to undo said.
	Error string `json:"error,omitempty"`
}

// DirectCall is a plugin that was called by itself.
type DirectCall struct {
	// Plugin is the name it was called by, which need not be the configuration's type: address
	// management gets the configuration of the plugin that uses it.
	Plugin string          `json:"plugin"`
	Conf   json.RawMessage `json:"conf"`
	// Done is set when it succeeded; Result is what it printed then.
	Done   bool   `json:"done,omitempty"`
	Result []byte `json:"result,omitempty"`
}

// Attachment finds an attachment; nil when there is none.
func (s *Sandbox) Attachment(network, ifname string) *Attachment {
	i := slices.IndexFunc(s.Attachments, func(a Attachment) bool { return a.Network == network && a.IfName == ifname })
	if i < 0 {
		return nil
	}
	return &s.Attachments[i]
}

// DefaultAttachment is the one whose result is the sandbox's; nil when our meta plugin did not make
// the sandbox.
func (s *Sandbox) DefaultAttachment() *Attachment {
	i := slices.IndexFunc(s.Attachments, func(a Attachment) bool { return a.Default })
	if i < 0 {
		return nil
	}
	return &s.Attachments[i]
}

// Remove forgets an attachment.
func (s *Sandbox) Remove(network, ifname string) {
	s.Attachments = slices.DeleteFunc(s.Attachments, func(a Attachment) bool {
		return a.Network == network &&
			a.IfName == ifname
	})
}

// Release is an address that could not be given back when its sandbox went.
type Release struct {
	PodUID  string `json:"podUID,omitempty"`
	Sandbox string `json:"sandbox"`
	// Interface is "" for all addresses of the sandbox.
	Interface string    `json:"interface,omitempty"`
	Since     time.Time `json:"since"`
}

func (r Release) key() string { return r.PodUID + "/" + r.Sandbox + "/" + r.Interface }

// HandOut is an address of the node's stock that was given to a pod before the API server was told.
// It is recorded before the pod gets the address and forgotten when the API server shows the pod,
// or when the pod has given it back.
type HandOut struct {
	// Lease is the name of the SpiderIPLease, LeaseUID that of the object.
	Lease    string `json:"lease"`
	LeaseUID string `json:"leaseUID"`
	// Pool and IP are the lease's.
	Pool string `json:"pool"`
	IP   string `json:"ip"`
	// Pod, Interface and Sandbox use the address.
	Pod       Pod       `json:"pod"`
	Interface string    `json:"interface"`
	Sandbox   string    `json:"sandbox"`
	Since     time.Time `json:"since"`
}

// Verbs are the devices that a container was given with a VF. A container keeps them whatever
// becomes of the VF.
type Verbs struct {
	PCI string `json:"pci"`
	// Name is that of the verbs device, such as "uverbs3".
	Name string `json:"name"`
	// Umad is that of the management device, such as "umad3"; "" when none was given.
	Umad string `json:"umad,omitempty"`
}

// VF is the permanent identity of a virtual function.
type VF struct {
	PCI   string // "0000:86:00.1"
	PF    string // PCI address of its physical function
	Index int    // 0-based
	GUID  ib.GUID
	// PFGUID is the port GUID of the card that the identity was given on: another card in the same
	// slot gets its own.
	PFGUID ib.GUID
	// Adopted: somebody else had made and configured the VF.
	Adopted bool
}

// storedVF is VF with its GUID as text.
type storedVF struct {
	PCI     string `json:"pci"`
	PF      string `json:"pf"`
	Index   int    `json:"index"`
	GUID    string `json:"guid"`
	PFGUID  string `json:"pfGUID,omitempty"`
	Adopted bool   `json:"adopted,omitempty"`
}

// MarshalJSON writes the GUIDs as text.
func (v VF) MarshalJSON() ([]byte, error) {
	s := storedVF{PCI: v.PCI, PF: v.PF, Index: v.Index, GUID: v.GUID.String(), Adopted: v.Adopted}
	if !v.PFGUID.IsZero() {
		s.PFGUID = v.PFGUID.String()
	}
	return json.Marshal(s)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (v *VF) UnmarshalJSON(data []byte) error {
	var s storedVF
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	guid, err := ib.ParseGUID(s.GUID)
	if err != nil {
		return err
	}
	*v = VF{PCI: s.PCI, PF: s.PF, Index: s.Index, GUID: guid, Adopted: s.Adopted}
	if s.PFGUID != "" {
		v.PFGUID, err = ib.ParseGUID(s.PFGUID)
	}
	return err
}

// SPDX-License-Identifier: Apache-2.0

// Package sriov decides about virtual functions: which ones a node shall have
// (Desired), what has to be done for that and what may not be done yet (Plan),
// which GUID each VF bears for ever, and which VFs may be given to pods (Pools).
//
// It is pure. It knows the objects of the API and its own picture of a node,
// but no kernel, no client and no kubelet; its callers observe and apply. The
// inventory is not shaped after any one way of advertising devices.
package sriov

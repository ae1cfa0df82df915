// SPDX-License-Identifier: Apache-2.0

// Package cni runs CNI plugins: ours inside this process, all others from disk,
// behind libcni's invoke.Exec so that neither side knows the difference.
//
// It owns the shape in which our plugins see a call (Request), the loop over the
// plugins of a configuration list, the delegation of address management, and
// what plugins share: putting a result's addresses on a link, error objects,
// timing. Each plugin is a small package below this one; it declares the few
// kernel methods that it uses.
//
// It does not choose networks and keeps no records: what a plugin must remember
// goes through State, which the caller makes durable. A plugin's Del works from
// its State alone and is the only undo there is: a failed Add is undone by Del.
package cni

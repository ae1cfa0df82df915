// SPDX-License-Identifier: Apache-2.0

// Package ledger owns what a node's agent must not forget: which sandbox has
// which attachments and how far each of them got, the addresses that were given
// out before the API server was told, those that still have to be given back,
// and the permanent identity of every virtual function.
//
// It is one bbolt file. Every write is in a transaction that is on disk (fsync)
// when the call returns, so "recorded" always means "survives power loss";
// writes that come at the same time share one.
// Values are JSON with a version number, so that a person can read them and a
// later agent can tell what it finds.
//
// The package stores and finds; it knows neither the kernel nor Kubernetes and
// never decides what a record is good for.
package ledger

// SPDX-License-Identifier: Apache-2.0

// Package v2beta1 owns the objects of the API group spiderpool.spidernet.io:
// address pools, reserved addresses, address leases, the addresses of a pod,
// network configurations and the coordinator's cluster-wide settings.
//
// It holds types, defaults and validation as plain functions. It knows no
// client and no webhook server; whoever calls it supplies what other objects
// exist.
//
// +kubebuilder:object:generate=true
// +groupName=spiderpool.spidernet.io
package v2beta1

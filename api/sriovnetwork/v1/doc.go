// SPDX-License-Identifier: Apache-2.0

// Package v1 owns the objects of the API group sriovnetwork.openshift.io:
// policies for virtual functions, the state of each node, and their settings.
//
// It holds types, defaults and validation as plain functions, and knows no client.
//
// +kubebuilder:object:generate=true
// +groupName=sriovnetwork.openshift.io
package v1

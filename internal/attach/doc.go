// SPDX-License-Identifier: Apache-2.0

// Package attach owns what happens between a container runtime's CNI call and a
// working network: one sandbox at a time, all its networks or none.
//
// A call of our meta plugin gathers the pod, the networks that its annotations
// name and the devices that the kubelet gave it; records every attachment;
// runs each network's plugins; and on any failure undoes all of them in reverse
// through the plugins' own Del. DEL works from the record alone. A call of one
// plugin of ours by itself goes through the same records. The collector finishes
// what a call could not.
//
// The package decides what is attached and in which order; what a network is,
// an address, or an interface, is the plugins' business. It reaches the cluster
// through the small interfaces below and imports no client.
package attach

// SPDX-License-Identifier: Apache-2.0

// Package nad owns what a NetworkAttachmentDefinition means: how one is made
// of a SpiderMultusConfig or a SriovIBNetwork, which networks a pod's annotations ask for, what a
// pod's wishes change in a network's CNI configuration, which device serves
// which network, and how the outcome is reported in the network-status
// annotation.
//
// It is pure: it turns values into values, and must know neither an API
// client, nor a file, nor the kernel. Every refusal names the annotation or
// field, what was found, and what was expected.
package nad

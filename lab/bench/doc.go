// SPDX-License-Identifier: Apache-2.0

// Package bench measures what attaching a pod costs in the lab: the phases of
// the product's CNI calls, as its agent keeps them, beside the bare kernel steps
// on the same node in the same run. Beside real pods it measures pods that exist
// for the agent alone, so that many can be attached at the same moment and what
// is measured is neither kubelet nor containers.
//
// It sees the lab through the few commands of Lab. It prints and judges nothing:
// on emulated machines a duration is worth something only beside another one.
// The pods, networks and programs on the node that it makes, it removes, also when
// it is interrupted; what the guide installs, it leaves.
package bench

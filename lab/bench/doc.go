// Package bench measures what attaching a pod costs in the lab: the phases of
// the product's CNI calls, as its agent keeps them, beside the bare kernel steps
// on the same node in the same run.
//
// It sees the lab through the few commands of Lab. It prints and judges nothing:
// on emulated machines a duration is worth something only beside another one.
// The pods and the program on the node that it makes, it removes, also when it is
// interrupted; what the guide installs, it leaves.
package bench

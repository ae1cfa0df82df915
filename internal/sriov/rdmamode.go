// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"fmt"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

// JudgeRdmaMode compares the mode of a node's RDMA subsystem with the wanted one ("" wants nothing), and
// says how to mend a difference. The kernel changes the mode only while no other network namespace exists,
// which on a node with pods is at boot alone.
func JudgeRdmaMode(wanted, observed string) (ok bool, reason, message string) {
	meaning := "each pod sees only its own RDMA devices"
	if observed == v1.RdmaModeShared {
		meaning = "every pod sees all RDMA devices of the node"
	}
	switch {
	case observed == "":
		return false, "RdmaModeUnknown",
			"the mode of the RDMA subsystem cannot be read: is ib_core loaded? (`modprobe ib_core`, `rdma system`)"
	case wanted == "":
		return true, "RdmaModeObserved", fmt.Sprintf("the mode is %s: %s; no SriovNetworkPoolConfig asks for a mode",
			observed, meaning)
	case wanted == observed:
		return true, "RdmaModeAsWanted", fmt.Sprintf("the mode is %s: %s", observed, meaning)
	}
	number := map[string]int{v1.RdmaModeExclusive: 0, v1.RdmaModeShared: 1}[wanted]
	return false, "RdmaModeDrift",
		fmt.Sprintf("the mode is %s (%s), wanted is %s. The kernel refuses to change it while pods run. On the node: "+
			"1. `echo \"options ib_core netns_mode=%d\" > /etc/modprobe.d/ib_core.conf`, and remove other "+
			"netns_mode options (`grep -r netns_mode /etc/modprobe.d /proc/cmdline`); "+
			"2. `update-initramfs -u` (Debian, Ubuntu) or `dracut -f` (Red Hat, SUSE); 3. `reboot`; 4. `rdma "+
			"system` shows %s",
			observed, meaning, wanted, number, wanted)
}

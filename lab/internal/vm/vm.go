// SPDX-License-Identifier: Apache-2.0

// Package vm says how QEMU is to be started for one machine, and speaks to the QEMU that runs. It
// starts nothing itself: the control plane's cell does (package cell).
package vm

import (
	"fmt"
	"path/filepath"

	"spidernet.io/spiderpool/lab/internal/topology"
)

// Program is the emulator's name.
const Program = "qemu-system-x86_64"

// Config is one machine.
type Config struct {
	Node      topology.Node
	Kernel    string
	Initramfs string
	Disk      string // the root file system; what the machine writes to a disk is lost when QEMU ends
	Store     string // the file system for containerd's images and containers
	Seed      string // a tar file that makes the machine this node
	Run       string // directory of the sockets
	Log       string // file that the serial console is written to
	MemoryMiB int
	CPUs      int
	KVM       bool
}

// Tap is the name of a node's tap interface: 0 on the node network, 1 on the fabric's segment.
func Tap(n topology.Node, nic int) string { return fmt.Sprintf("tap%d%c", n.Index, 'n'+byte(nic)) }

// Console is the socket of the serial console.
func (c Config) Console() string { return ConsoleSocket(c.Run, c.Node.Name) }

// ConsoleSocket is the socket of a node's serial console.
func ConsoleSocket(run, node string) string { return filepath.Join(run, node+".console") }

// MonitorSocket is the socket of a node's QEMU monitor.
func MonitorSocket(run, node string) string { return filepath.Join(run, node+".qmp") }

// kernelArguments: no mitigations and no address randomization, which cost time under emulation and
// protect nobody here; the TSC as clock, without which perftest refuses to measure.
const kernelArguments = "console=ttyS0 quiet panic=10 mitigations=off nokaslr random.trust_cpu=on tsc=reliable " +
	"clocksource=tsc"

// Args is QEMU's command line without the program's name.
func Args(c Config) []string {
	args := []string{
		"-name", c.Node.Name, "-machine", "q35", "-nodefaults", "-display", "none",
		"-smp", fmt.Sprint(c.CPUs), "-m", fmt.Sprint(c.MemoryMiB),
		"-kernel", c.Kernel, "-initrd", c.Initramfs, "-append", kernelArguments,
		"-device", "virtio-rng-pci",
	}
	args = append(args, acceleration(c.KVM)...)
	args = append(args, disk(c.Disk, "snapshot=on,cache=unsafe,aio=threads")...)
	args = append(args, disk(c.Seed, "readonly=on")...)
	args = append(args, disk(c.Store, "snapshot=on,cache=unsafe,aio=threads")...)
	args = append(args,
		"-chardev", fmt.Sprintf("socket,id=console,path=%s,server=on,wait=off,logfile=%s,logappend=on", c.Console(),
			c.Log),
		"-serial", "chardev:console",
		"-qmp", fmt.Sprintf("unix:%s,server=on,wait=off", MonitorSocket(c.Run, c.Node.Name)),
	)
	args = append(args, nic(c.Node, 0, "")...)
	return append(args, nic(c.Node, 1, fmt.Sprintf(",host_mtu=%d", topology.FabricMTU))...)
}

func acceleration(kvm bool) []string {
	if kvm {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max"}
}

func disk(file, how string) []string {
	return []string{"-drive", fmt.Sprintf("file=%s,format=raw,if=virtio,%s", file, how)}
}

func nic(n topology.Node, i int, more string) []string {
	id := fmt.Sprintf("nic%d", i)
	return []string{
		"-netdev", fmt.Sprintf("tap,id=%s,ifname=%s,script=no,downscript=no", id, Tap(n, i)),
		"-device", fmt.Sprintf("virtio-net-pci,netdev=%s,mac=%s%s", id, n.MAC(i), more),
	}
}

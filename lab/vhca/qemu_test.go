// SPDX-License-Identifier: Apache-2.0

package vhca

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// rig is what every guest boots from.
type rig struct {
	kernel    kernel
	initramfs string
}

// guest describes one virtual machine.
type guest struct {
	script string // file in guest/ that process 1 runs
	node   int    // this machine's number, from 1
	share  string // folder that all machines see as /host
	port   int    // UDP port of the Ethernet segment between them; 0: none
	cpus   int    // virtual processors
	limit  time.Duration
}

// verdict is what a guest said of one check.
type verdict struct {
	name   string
	ok     bool
	detail string // of a failure
}

// boot runs a guest to its end and returns its verdicts. The console goes to
// log. The error says why the verdicts may not be the whole story.
func (r rig) boot(ctx context.Context, g guest, log io.Writer) ([]verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, g.limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", r.args(g)...)
	console, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	verdicts, endErr := readConsole(io.TeeReader(console, log))
	waitErr := cmd.Wait()
	if ctx.Err() != nil {
		return verdicts, fmt.Errorf("the guest ran longer than %s and was stopped", g.limit)
	}
	// Process 1 leaves through isa-debug-exit, whose least status is 1.
	var exit *exec.ExitError
	if waitErr == nil || !errors.As(waitErr, &exit) || exit.ExitCode() != 1 {
		return verdicts, errors.Join(endErr, fmt.Errorf("the guest did not end by itself: QEMU: %v", cmd.ProcessState))
	}
	return verdicts, endErr
}

func (r rig) args(g guest) []string {
	// perftest refuses to report unless the guest's clock is the TSC.
	cmdline := fmt.Sprintf(
		"console=ttyS0 panic=-1 quiet loglevel=3 tsc=reliable clocksource=tsc check.script=%s check.node=%d",
		g.script, g.node)
	args := []string{
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max",
		"-smp", strconv.Itoa(g.cpus), "-m", "1024",
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=4",
		"-kernel", r.kernel.image, "-initrd", r.initramfs,
		"-virtfs", "local,path=" + g.share + ",mount_tag=host,security_model=none",
		"-append", cmdline,
	}
	if g.port != 0 {
		// Multicast on the loopback interface: an Ethernet segment for any
		// number of machines, which nothing outside this one can see.
		args = append(args,
			"-netdev", fmt.Sprintf("socket,id=fabric,mcast=239.7.7.7:%d,localaddr=127.0.0.1", g.port),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=fabric,mac=02:00:00:00:ff:%02x", g.node))
	}
	return args
}

// readConsole collects the PASS and FAIL lines up to the END line, which tells
// how many there must be.
func readConsole(console io.Reader) ([]verdict, error) {
	var verdicts []verdict
	ended := errors.New("the guest's script did not reach its END line")
	lines := bufio.NewScanner(console)
	for lines.Scan() {
		word, rest, _ := strings.Cut(strings.TrimRight(lines.Text(), "\r"), " ")
		switch word {
		case "PASS":
			verdicts = append(verdicts, verdict{name: rest, ok: true})
		case "FAIL":
			name, detail, _ := strings.Cut(rest, " :: ")
			verdicts = append(verdicts, verdict{name: name, detail: detail})
		case "END":
			ended = nil
			if n, err := strconv.Atoi(rest); err != nil || n != len(verdicts) || n == 0 {
				ended = fmt.Errorf("the guest's script made %q checks, the console shows %d", rest, len(verdicts))
			}
		}
	}
	return verdicts, errors.Join(ended, lines.Err())
}

// newRig builds everything that guests boot from, in the user's cache folder.
func newRig() (rig, error) {
	if err := checkHost(); err != nil {
		return rig{}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return rig{}, fmt.Errorf("finding the cache folder: %w", err)
	}
	cache = filepath.Join(cache, "spiderpool-lab")
	k, err := findKernel(cache)
	if err != nil {
		return rig{}, err
	}
	tools, err := unpack(cache, "tools", guestPackages)
	if err != nil {
		return rig{}, err
	}
	module, err := buildModule(cache, k)
	if err != nil {
		return rig{}, err
	}
	r := rig{kernel: k, initramfs: filepath.Join(cache, "initramfs-"+k.version+".gz")}
	return r, buildInitramfs(r.initramfs, tools, module, k)
}

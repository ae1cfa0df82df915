// SPDX-License-Identifier: Apache-2.0

// Package purge leaves a node as it was before the product came: it removes the virtual functions
// that the agent made, and the files that it put there. It runs when the agent is gone for good.
//
// It owns the order and the refusals. Which virtual functions are ours is package sriov's to say;
// how they go, package host's.
package purge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"spidernet.io/spiderpool/internal/agent/nodestate"
	"spidernet.io/spiderpool/internal/cni/coordinator"
	"spidernet.io/spiderpool/internal/cniinstall"
	"spidernet.io/spiderpool/internal/deviceplugin"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/sriov"
)

// Kernel is what the package asks of the node.
type Kernel interface {
	PFs() ([]host.PF, error)
	SetNumVFs(pf string, n int) error
	NSExists(ns host.NS) bool
	Rules(ns host.NS) ([]host.Rule, error)
	Routes(ns host.NS, table int) ([]host.Route, error)
	DeleteRule(ns host.NS, r host.Rule) error
}

// Options of Run. Paths are the node's own.
type Options struct {
	// Root is where the node's root directory is seen, such as "/host".
	Root   string
	Kernel Kernel
	// Ledger is the file of the node's records, Socket the agent's.
	Ledger, Socket string
	// BinDir and ConfDir are the node's CNI directories, Plugins all names that the shim may have.
	BinDir, ConfDir string
	Plugins         []string
	// HostTable is the table of the node's routes to pods (hostRuleTable of the SpiderCoordinator).
	HostTable int
	// KubeletDir and ResourcePrefix say where the device plugin's sockets are and what its files are called.
	KubeletDir, ResourcePrefix string
	// Allocated lists the VFs, by PCI address, that the kubelet has promised to pods.
	Allocated func(context.Context) (map[string]string, error)
	// Do carries the plan out; otherwise it is only printed.
	Do  bool
	Out io.Writer
}

// ErrRefused: the node is in use; the text says by what.
var ErrRefused = errors.New("nothing was done")

// step is one thing to do.
type step struct {
	text string
	do   func() error
}

// Run plans everything first and refuses before anything is done. It may be repeated: what is gone
// is not in the next plan. The records go last and only when all else went, as they alone tell
// which VFs are ours.
func Run(ctx context.Context, o Options) error {
	if _, err := os.Stat(o.at("/run")); err != nil {
		return fmt.Errorf("the node's root directory is not at %s (--root): %w", o.Root, err)
	}
	vfs, err := o.records(ctx)
	if err != nil {
		return err
	}
	rules, err := o.rules()
	if err != nil {
		return err
	}
	steps := slices.Concat(vfs, rules, o.cni(), o.files("remove what is left of the device plugin: %s",
		o.devicePlugin()),
		o.files("remove the agent's socket %s", []string{o.Socket}))
	if err := o.carryOut(steps); err != nil {
		return fmt.Errorf("the records stay, so that this can be repeated: %w", err)
	}
	last := o.files("remove the node's records %s", o.ledgerFiles())
	if err := o.carryOut(last); err != nil {
		return err
	}
	o.conclude(len(steps) + len(last))
	return nil
}

func (o Options) conclude(n int) {
	switch {
	case n == 0:
		fmt.Fprintln(o.Out, "nothing of the product is left on this node")
	case !o.Do:
		fmt.Fprintln(o.Out, "nothing was done: give --yes to do it")
	default:
		o.removeEmpty(filepath.Dir(o.Ledger))
		o.removeEmpty(filepath.Dir(o.Socket))
		fmt.Fprintln(o.Out, "done")
	}
}

// removeEmpty removes a folder of ours if nothing else is in it.
func (o Options) removeEmpty(dir string) {
	if strings.Contains(filepath.Base(dir), "spider") {
		_ = os.Remove(o.at(dir)) // another's file in it is a reason to leave it
	}
}

func (o Options) carryOut(steps []step) error {
	var errs []error
	for _, s := range steps {
		fmt.Fprintln(o.Out, s.text)
		if !o.Do {
			continue
		}
		if err := s.do(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.text, err))
		}
	}
	return errors.Join(errs...)
}

// at is where a path of the node is seen. /var/run is a link to /run on nodes, and followed here it
// would lead out of Root.
func (o Options) at(path string) string {
	if rest, ok := strings.CutPrefix(path, "/var/run/"); ok {
		path = "/run/" + rest
	}
	return filepath.Join(o.Root, path)
}

// records reads the ledger, refuses while pods have networks of ours, and plans what it says of
// VFs. Without a ledger nothing is ours.
func (o Options) records(ctx context.Context) ([]step, error) {
	if _, err := os.Stat(o.at(o.Ledger)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	book, damage, err := ledger.Open(o.at(o.Ledger))
	if errors.Is(err, ledger.ErrHeld) {
		return nil,
			fmt.Errorf(
				"%w: the agent must not run here: `helm uninstall` it, or keep its DaemonSet off this node "+
					"(spiderpoolAgent.nodeSelector). %w", ErrRefused, err)
	}
	if err != nil {
		return nil, err
	}
	defer book.Close()
	if damage != nil {
		return nil,
			fmt.Errorf(
				"%w: %s. Which virtual functions are ours cannot be told: remove them by hand (`echo 0 > "+
					"/sys/bus/pci/devices/PF/sriov_numvfs`), then repeat", ErrRefused, damage)
	}
	if live := o.live(book.Sandboxes()); len(live) > 0 {
		return nil, fmt.Errorf("%w: these pods have networks of ours: %s; delete or drain them, while the agent runs",
			ErrRefused, strings.Join(live, ", "))
	}
	return o.planVFs(ctx, book)
}

// live names the pods whose network namespaces exist. Records of others are what a pod left that
// died while no agent ran.
func (o Options) live(sandboxes []ledger.Sandbox) (out []string) {
	for _, s := range sandboxes {
		if !slices.ContainsFunc(s.Attachments, needsUs) {
			continue
		}
		if s.NetNS == "" || o.Kernel.NSExists(host.NS(o.at(s.NetNS))) {
			out = append(out, s.Pod.Namespace+"/"+s.Pod.Name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// needsUs tells whether nobody but us can undo an attachment. One to the node's primary network
// does not: without our configuration the runtime calls that network's plugin itself.
func needsUs(a ledger.Attachment) bool {
	primary := a.Default && a.NAD == "" && a.Phase == ledger.Done
	return !primary || a.DeviceID != "" || len(a.State) > 0 || len(a.Direct) > 0
}

// planVFs removes VFs of PFs that are ours, as the end of a policy would.
func (o Options) planVFs(ctx context.Context, book *ledger.Ledger) ([]step, error) {
	plan, err := nodestate.PlanRemoval(ctx, o.Kernel.PFs, book.VFs, o.Allocated)
	if err != nil {
		return nil, err
	}
	var steps []step
	var blocked []string
	for _, c := range plan {
		if c.Blocked != "" {
			blocked = append(blocked, fmt.Sprintf("%s on %s: %s", c, c.PF, c.Blocked))
		}
		if c.Kind == sriov.SetNumVFs {
			steps = append(steps, step{fmt.Sprintf("%s: %s", c.PF, c),
				func() error { return o.Kernel.SetNumVFs(c.PF, c.Number) }})
		}
	}
	if len(blocked) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrRefused, strings.Join(blocked, "; "))
	}
	return steps, nil
}

// rules plans the removal of the node's rules that lead to the routes to pods, which stay when the
// last pod goes. While there are routes they are somebody's.
func (o Options) rules() (steps []step, err error) {
	routes, err := o.Kernel.Routes(host.NodeNS, o.HostTable)
	if err != nil {
		return nil, fmt.Errorf("list the routes of table %d: %w", o.HostTable, err)
	}
	all, err := o.Kernel.Rules(host.NodeNS)
	if err != nil {
		return nil, fmt.Errorf("list the rules: %w", err)
	}
	for _, r := range all {
		ours := r == coordinator.NodeRule(o.HostTable, r.IPv6)
		used := slices.ContainsFunc(routes, func(route host.Route) bool { return route.Dst.Addr().Is6() == r.IPv6 })
		if !ours || used {
			continue
		}
		family := map[bool]string{false: "IPv4", true: "IPv6"}[r.IPv6]
		steps = append(steps, step{fmt.Sprintf("remove the %s rule %d that leads to the empty table %d", family,
			r.Priority, r.Table), func() error {
			return o.Kernel.DeleteRule(host.NodeNS, r)
		}})
	}
	return steps, nil
}

// cni plans the configuration before the plugins that it names.
func (o Options) cni() (steps []step) {
	bin, conf := o.at(o.BinDir), o.at(o.ConfDir)
	if cniinstall.ConfInstalled(conf) {
		steps = append(steps, step{"remove the CNI configuration " + filepath.Join(o.ConfDir, cniinstall.ConfName),
			func() error { return cniinstall.RemoveConf(conf) }})
	}
	if found := cniinstall.Installed(bin, o.Plugins); len(found) > 0 {
		text := fmt.Sprintf("remove from %s: %s; plugins of other products that were set aside come back", o.BinDir,
			strings.Join(found, ", "))
		steps = append(steps, step{text, func() error { return cniinstall.RemoveBinaries(bin, o.Plugins) }})
	}
	return steps
}

// devicePlugin lists device-info files and sockets.
func (o Options) devicePlugin() []string {
	found := deviceplugin.Leftovers(o.ResourcePrefix, o.at(o.KubeletDir+"/device-plugins"),
		o.at("/run/k8s.cni.cncf.io/devinfo/dp"))
	for i := range found {
		found[i] = strings.TrimPrefix(found[i], strings.TrimSuffix(o.Root, "/"))
	}
	return found
}

func (o Options) ledgerFiles() []string {
	out := []string{o.Ledger}
	aside, _ := filepath.Glob(o.at(o.Ledger) + ".damaged-*") // the only error is a bad pattern
	for _, path := range aside {
		out = append(out, filepath.Join(filepath.Dir(o.Ledger), filepath.Base(path)))
	}
	return out
}

// files plans the removal of those that exist.
func (o Options) files(text string, paths []string) (steps []step) {
	for _, path := range paths {
		if _, err := os.Lstat(o.at(path)); err == nil {
			steps = append(steps, step{fmt.Sprintf(text, path), func() error { return os.Remove(o.at(path)) }})
		}
	}
	return steps
}

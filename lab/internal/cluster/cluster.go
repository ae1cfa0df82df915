// SPDX-License-Identifier: Apache-2.0

// Package cluster brings up the lab's Kubernetes cluster, says how it is, and takes it down.
//
// The control plane runs on the host inside a cell (package cell), the nodes are virtual machines
// on the cell's bridge (packages vm, noderoot). What all of them are told is decided here, in pure
// functions of the topology and the options.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"spidernet.io/spiderpool/lab/internal/cache"
	"spidernet.io/spiderpool/lab/internal/cell"
	"spidernet.io/spiderpool/lab/internal/gobuild"
	"spidernet.io/spiderpool/lab/internal/guest"
	"spidernet.io/spiderpool/lab/internal/noderoot"
	"spidernet.io/spiderpool/lab/internal/preflight"
	"spidernet.io/spiderpool/lab/internal/progress"
	"spidernet.io/spiderpool/lab/internal/topology"
)

// Options are what a person may choose about a lab.
type Options struct {
	Cards     int // InfiniBand cards per machine, 1 or 2
	MemoryMiB int // of each machine
	CPUs      int // of each machine
	APIPort   int // on the host's loopback address
	// RegistryPort is the container registry's, on the host's loopback address. Host and machines call
	// the registry by that address: see Registry.
	RegistryPort int
	// Preload puts the product's image of this tree into the machines before they boot. Without it
	// they have no image of the product until they pull one.
	Preload bool
}

// Registry is the name of the lab's registry in image references, for the host and the machines.
func (o Options) Registry() string { return loopback(o.RegistryPort) }

// loopback is an address of the host that no other host reaches.
func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// DefaultOptions suit an ordinary machine.
//
// One processor each: where QEMU emulates several, one that runs code while another patches it (the
// kernel's jump labels) can keep the breakpoint that stood there for a moment, and then runs into
// it for ever. Seen with 6.1 and QEMU 7.2 after a minute of load: both in exc_int3.
func DefaultOptions() Options {
	return Options{Cards: 1, MemoryMiB: 1024, CPUs: 1, APIPort: 16443, RegistryPort: 15000}
}

// Lab is a lab, up or not.
type Lab struct {
	Layout Layout
	Source gobuild.Source
	Cache  cache.Dir
	Say    *progress.Printer
}

// controlPlaneMiB is what the programs on the host take, and QEMU beside what it gives its machine.
const controlPlaneMiB = 1024

// readyLimit is how long a cluster may take from its start until its nodes are ready.
const readyLimit = 5 * time.Minute

// Up builds what is missing and starts the cluster; it returns when both nodes are ready, with
// their cards active. command is the program and arguments that run cell.Main with a file's path
// added.
func (l Lab) Up(ctx context.Context, o Options, command []string) error {
	unlock, err := l.Layout.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, up, err := l.Layout.Load(); err != nil || up {
		return errors.Join(err, whenUp(up))
	}
	host, err := preflight.Look(preflight.Place{State: l.Layout.Dir, Cache: string(l.Cache), Ports: o.ports()})
	if err != nil {
		return err
	}
	if err := preflight.Check(host, preflight.Need{MemoryMiB: 2*o.MemoryMiB + controlPlaneMiB}); err != nil {
		return err
	}
	if err := l.Layout.fresh(); err != nil {
		return err
	}
	parts, err := l.build(ctx, o.Preload)
	if err != nil {
		return err
	}
	if err := makeIdentities(l.Layout, o); err != nil {
		return err
	}
	state, err := l.start(o, parts, host.KVM, command)
	if err != nil {
		return err
	}
	if err := l.Layout.save(state); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	return l.waitReady(ctx)
}

func whenUp(up bool) error {
	if up {
		return errors.New(`a lab is already up: "lab status" shows it, "lab down" ends it`)
	}
	return nil
}

// parts are what build made.
type parts struct {
	kube    string
	machine noderoot.Machine
	store   string // disk with the images
}

// build makes everything that does not depend on this life of the lab, side by side where possible.
func (l Lab) build(ctx context.Context, preload bool) (parts, error) {
	var out parts
	var packages noderoot.Packages
	var module string
	var images []string
	err := together(ctx,
		func(ctx context.Context) error {
			return l.Say.Step("compiling the Kubernetes programs (once per machine, about five minutes)",
				func() (err error) {
					out.kube, err = gobuild.Kube(ctx, l.Cache, l.Source)
					return err
				})
		},
		func(ctx context.Context) (err error) {
			if packages, module, err = l.debian(ctx); err != nil {
				return err
			}
			images, err = l.baseImages(ctx, packages)
			return err
		})
	if err != nil {
		return out, err
	}
	guest := filepath.Join(l.Source.Lab, "guest")
	err = together(ctx,
		func(ctx context.Context) error {
			return l.Say.Step("making the machines' disk", func() (err error) {
				p := noderoot.Parts{Packages: packages, CardModule: module, Kube: out.kube, Guest: guest}
				out.machine, err = noderoot.Build(ctx, l.Cache, p)
				return err
			})
		},
		func(ctx context.Context) (err error) {
			if preload {
				if err := l.productImage(ctx); err != nil {
					return err
				}
				images = append(images, l.imageFile(productFile))
			}
			return l.Say.Step("importing the images", func() (err error) {
				out.store, err = noderoot.Store(ctx, l.Cache, packages, guest, images...)
				return err
			})
		})
	if err != nil {
		return out, err
	}
	return out, l.linkPrograms(out.kube)
}

// together runs all side by side; the first failure cancels the others.
func together(ctx context.Context, all ...func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, do := range all {
		g.Go(func() error { return do(ctx) })
	}
	return g.Wait()
}

func (l Lab) debian(ctx context.Context) (p noderoot.Packages, module string, err error) {
	err = l.Say.Step("fetching Debian's packages (once)", func() (err error) {
		p, err = noderoot.FetchPackages(ctx, l.Cache)
		return err
	})
	if err != nil {
		return p, "", err
	}
	err = l.Say.Step("compiling the virtual InfiniBand card", func() (err error) {
		module, err = noderoot.CardModule(ctx, l.Cache, l.Source.Lab, p)
		return err
	})
	return p, module, err
}

// baseImages returns the images that do not depend on the product.
func (l Lab) baseImages(ctx context.Context, p noderoot.Packages) (images []string, err error) {
	err = l.Say.Step("making the test image", func() error {
		pause, err := pauseImage(ctx, l.Cache, l.Source)
		if err != nil {
			return err
		}
		test, err := testImage(ctx, l.Cache, p, l.Source.Lab)
		images = []string{pause, test}
		return err
	})
	return images, err
}

func (l Lab) imageFile(name string) string { return filepath.Join(l.Layout.images(), name+".tar") }

func (l Lab) productImage(ctx context.Context) error {
	return l.Say.Step("compiling the product", func() error {
		return packProduct(ctx, l.Source, l.imageFile(productFile))
	})
}

// linkPrograms names the control plane's programs in the lab's own directory.
func (l Lab) linkPrograms(kube string) error {
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"} {
		if err := os.Symlink(filepath.Join(kube, "bin", name), l.Layout.program(name)); err != nil {
			return fmt.Errorf("linking the control plane's programs: %w", err)
		}
	}
	return nil
}

// ports are those of the host, by the flags that choose them.
func (o Options) ports() map[string]int {
	return map[string]int{"--api-port": o.APIPort, "--registry-port": o.RegistryPort}
}

// start opens the ports on the host and makes the cell.
func (l Lab) start(o Options, p parts, kvm bool, command []string) (State, error) {
	var sockets []*os.File
	defer func() {
		for _, s := range sockets {
			s.Close()
		}
	}()
	for _, port := range []int{o.APIPort, o.RegistryPort} { // in the order of the plan's Forward
		s, err := openPort(port)
		if err != nil {
			return State{}, err
		}
		sockets = append(sockets, s)
	}
	specFile := filepath.Join(l.Layout.Dir, "cell.json")
	h, err := cell.Start(plan(l.Layout, o, p, kvm), specFile, l.Layout.log("cell"), sockets,
		append(command, specFile)...)
	return State{Cell: h, Options: o}, err
}

// openPort listens on a port of the host's loopback address, for another process to accept.
func openPort(port int) (*os.File, error) {
	listener, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return nil, fmt.Errorf("opening port %d on this host: %w", port, err)
	}
	defer listener.Close()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return nil, fmt.Errorf("handing port %d to the control plane: %w", port, err)
	}
	return file, nil
}

// Down ends the lab and removes what belonged to it. No lab is no error.
func (l Lab) Down(ctx context.Context) error {
	unlock, err := l.Layout.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s, _, err := l.Layout.Load()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := s.Cell.Stop(ctx); err != nil {
		return err
	}
	return l.Layout.remove()
}

// Dial connects to a node.
func (l Lab) Dial(ctx context.Context, node string) (*guest.Machine, error) {
	if _, err := topology.Find(node); err != nil {
		return nil, err
	}
	m, err := guest.Dial(ctx, l.Layout.ssh(node), l.Layout.key())
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", node, err)
	}
	return m, nil
}

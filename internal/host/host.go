// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// Options choose what a Host looks at. The zero value is the machine it runs on.
type Options struct {
	// Root is the folder that holds sys and proc, "/" when empty. Tests give a folder of their own.
	Root string
	// NodeNS is the network namespace to treat as the node's own: the process's own one when empty. The sysfs
	// under Root must be one of that namespace for its PCI functions' netdevs and RDMA devices to be seen.
	NodeNS NS
}

// Host is the kernel of this machine. It keeps no state but one file
// descriptor of the node's namespace and a lock, and is safe for concurrent use. Its
// methods are described in hosttest.API.
type Host struct {
	root string
	node *os.File // the node's network namespace
	// away tells that the node's namespace is not the one that threads are in.
	away bool
	// numbers lets one RDMA device at a time be moved or made. The kernel gives it the lowest free
	// uverbs number: a moved one gets its old number back, as its container needs, only when no
	// other device comes in between.
	numbers sync.Mutex
}

// New makes a Host of the machine.
func New(o Options) (*Host, error) {
	path := string(o.NodeNS)
	if path == "" {
		path = "/proc/thread-self/ns/net"
	}
	node, err := openNSFile(path)
	if err != nil {
		return nil, fmt.Errorf("opening the node's network namespace: %w", err)
	}
	root := o.Root
	if root == "" {
		root = "/"
	}
	return &Host{root: root, node: node, away: o.NodeNS != NodeNS}, nil
}

// Close gives the file descriptor back.
func (h *Host) Close() error { return h.node.Close() }

// sys is the sysfs that the node's namespace sees.
func (h *Host) sys() sysfs { return sysfs(filepath.Join(h.root, "sys")) }

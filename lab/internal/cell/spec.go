// SPDX-License-Identifier: Apache-2.0

// Package cell runs the lab's processes inside namespaces of their own: a network with its bridges
// and taps, where no address, port or route of the host is touched, and a process tree that ends,
// whole, with its first process.
//
// Start makes it from outside; Main is its first process. The package knows how to run programs, not which.
package cell

import "time"

// Spec is what a cell holds. It is handed to the cell as JSON.
type Spec struct {
	Bridges  []Bridge
	Taps     []Tap
	Routes   []Route
	Programs []Program
	Sockets  []Socket
	Files    Files
	Control  string // path of the unix socket on which the cell answers (Client)
	// Forward are TCP addresses inside: connections to the inherited listener of the same place in
	// the order go there.
	Forward []string
}

// Bridge is a bridge inside the cell.
type Bridge struct {
	Name    string
	MTU     int
	Address string // in CIDR form, or "" for none
}

// Tap is a tap interface on a bridge, for a virtual machine.
type Tap struct {
	Name, Bridge string
	MTU          int
}

// Route sends packets for a network to an address.
type Route struct{ Network, Via string }

// Program is something to run.
type Program struct {
	Name    string
	Args    []string // with the program itself first, as a path
	Env     []string // added to the environment
	Log     string   // file for its output
	After   string   // URL that must answer 200 first, or ""
	Restart bool     // start it again when it ends
}

// Socket is a unix socket, seen on the host, that leads to a TCP address inside the cell.
type Socket struct{ Path, Target string }

// Files is a directory served over HTTP inside the cell.
type Files struct{ Address, Dir string }

// Process is the state of a Program.
type Process struct {
	Name     string
	Running  bool
	Since    time.Time // of the present state
	Starts   int
	Waiting  bool   // for Program.After
	LastExit string // "" if it never ended
	Log      string
}

// SPDX-License-Identifier: Apache-2.0

// Package cnisock is the wire between the CNI shim and the node's agent: one
// request and one response on a unix socket, each a length and a JSON object.
//
// A frame is a 4-octet big-endian length and that many octets of JSON. The
// client sends a Request and reads a Response; then the connection ends. Size
// and time are bounded on both sides. The server answers only the user it is
// told to (root), by the kernel's word (SO_PEERCRED).
//
// The package uses the standard library alone, because the shim links it and
// starts for every pod. It carries requests and does not know what they mean.
package cnisock

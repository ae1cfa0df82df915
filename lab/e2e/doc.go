// SPDX-License-Identifier: Apache-2.0

// Package e2e holds the tests that need the whole lab: the guide, bad input of
// every kind, and what else only a cluster with real kernels can show.
//
// A run starts a lab of its own and ends it. With LAB_KEEP=1 it uses the lab
// that is up, brings the present product there, and leaves it running: the
// developer's loop. With -short nothing runs.
package e2e

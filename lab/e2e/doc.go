// SPDX-License-Identifier: Apache-2.0

// Package e2e holds the tests that need the whole lab: the guide, bad input of
// every kind, and what else only a cluster with real kernels can show.
//
// A run starts a lab of its own and ends it. TestGuide releases the present
// product into the lab's registry and installs it from there by the commands of
// docs/try-it.md; all other tests use what it installed. With LAB_KEEP=1 a run
// uses the lab that is up and leaves it running: the developer's loop, in which
// -run 'TestGuide|TestX' brings the present product there, and -run TestX
// alone tests the one that is installed. With -short nothing runs.
//
// go test goes by the names of files, and the names here keep an order: what
// needs a clean machine, the guide, everything else, the uninstallation, the
// upgrade from the previous version.
package e2e

// SPDX-License-Identifier: Apache-2.0

// Command program links one module besides the standard library.
package main

import "golang.org/x/mod/semver"

func main() { println(semver.Canonical("v1")) }

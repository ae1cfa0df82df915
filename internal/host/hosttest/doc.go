// SPDX-License-Identifier: Apache-2.0

// Package hosttest owns a fake of package host and the conformance suite that
// the fake and the real kernel must both pass. It is for tests only.
package hosttest

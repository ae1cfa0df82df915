// SPDX-License-Identifier: Apache-2.0

package demo

// Setup are the guide's steps that any pod needs: the product, its VFs, both networks and their addresses.
func Setup(o Options) ([]Step, error) {
	b := builder{guide: ParseGuide(guideText), Options: o}
	b.install()
	b.virtualFunctions()
	b.networks(PartSRIOV, "ib-sriov")
	b.networks(PartIPoIB, "ipoib")
	return b.steps, b.err
}

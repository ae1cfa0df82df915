// SPDX-License-Identifier: Apache-2.0

package v1

// Key is "namespace/name" of the NetworkAttachmentDefinition that the element names, as
// network-status writes it.
func (e *NetworkSelectionElement) Key() string {
	if e.Namespace == "" {
		return e.Name
	}
	return e.Namespace + "/" + e.Name
}

// ResourceName is the extended resource whose devices serve the network, "" when it needs none.
func (n *NetworkAttachmentDefinition) ResourceName() string {
	return n.Annotations[AnnotationResourceName]
}

// SPDX-License-Identifier: Apache-2.0

package nad

import (
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

// ibNetworkVersion of CNI is what a SriovIBNetwork's configuration speaks.
const ibNetworkVersion = "1.0.0"

// ibNetworkConf is the ib-sriov plugin as a SriovIBNetwork configures it. Alone it carries version
// and name itself.
type ibNetworkConf struct {
	CNIVersion   string          `json:"cniVersion,omitempty"`
	Name         string          `json:"name,omitempty"`
	Type         string          `json:"type"`
	LinkState    string          `json:"link_state,omitempty"`
	Capabilities json.RawMessage `json:"capabilities,omitempty"`
	IPAM         json.RawMessage `json:"ipam,omitempty"`
}

// RenderIBNetwork makes the NetworkAttachmentDefinition of a network: a single plugin's
// configuration, or a list when meta plugins follow. prefix is that of the nodes' resources. A
// network that is not valid has none.
func RenderIBNetwork(n *sriovv1.SriovIBNetwork, prefix string) (*cncfv1.NetworkAttachmentDefinition, error) {
	texts, errs := n.Validate()
	if len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	plugin := ibNetworkConf{Type: v2beta1.IBSriovCNI, LinkState: n.Spec.LinkState, Capabilities: texts.Capabilities,
		IPAM: texts.IPAM}
	var conf any = confList{CNIVersion: ibNetworkVersion, Name: n.Name, Plugins: append([]any{plugin},
		anys(texts.MetaPlugins)...)}
	if len(texts.MetaPlugins) == 0 {
		plugin.CNIVersion, plugin.Name = ibNetworkVersion, n.Name
		conf = plugin
	}
	text, err := json.Marshal(conf)
	if err != nil {
		return nil, fmt.Errorf("rendering SriovIBNetwork %s/%s: %w", n.Namespace, n.Name, err)
	}
	return &cncfv1.NetworkAttachmentDefinition{
		TypeMeta: metav1.TypeMeta{APIVersion: cncfv1.GroupVersion.String(), Kind: "NetworkAttachmentDefinition"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: n.TargetNamespace(), Name: n.Name,
			Annotations: map[string]string{cncfv1.AnnotationResourceName: prefix + "/" + n.Spec.ResourceName,
				sriovv1.AnnotationOwner: n.OwnerKey()},
		},
		Spec: cncfv1.NetworkAttachmentDefinitionSpec{Config: string(text)},
	}, nil
}

func anys(in []json.RawMessage) (out []any) {
	for _, v := range in {
		out = append(out, v)
	}
	return out
}

// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// question is what every rule is asked: may this interface use a pool of this family?
type question struct {
	request Request
	facts   Facts
	version int64
	// elsewhere: another interface of the pod is meant, of whose network and device nothing is known.
	elsewhere bool
}

// rule gives the reason why a pool may not serve; empty when it may.
type rule func(*Pool, question) string

// rules are asked in this order, and the first reason is the one shown.
var rules = []rule{
	ruleReadable, ruleNotTerminating, ruleEnabled, ruleVersion, ruleNode,
	ruleNamespace, rulePod, ruleNetwork, ruleMasterSubnet, ruleWanted,
}

// reason asks all rules.
func (q question) reason(p *Pool) string {
	for _, r := range rules {
		if why := r(p, q); why != "" {
			return why
		}
	}
	return ""
}

func ruleReadable(p *Pool, _ question) string {
	if p.Invalid != nil {
		return fmt.Sprintf("is not valid: %v", p.Invalid)
	}
	return ""
}

func ruleNotTerminating(p *Pool, _ question) string {
	if p.Terminating {
		return "is being deleted"
	}
	return ""
}

func ruleEnabled(p *Pool, _ question) string {
	if p.Disabled {
		return "is disabled; set its spec.disable to false, or name another pool"
	}
	return ""
}

func ruleVersion(p *Pool, q question) string {
	if p.Version() != q.version {
		return fmt.Sprintf("is IPv%d, but is named among the IPv%d pools", p.Version(), q.version)
	}
	return ""
}

func ruleNode(p *Pool, q question) string {
	return nameOrLabels("node", q.request.Pod.Node, p.nodeNames, p.nodes, q.facts.NodeLabels)
}

func ruleNamespace(p *Pool, q question) string {
	return nameOrLabels("namespace", q.request.Pod.Namespace, p.namespaceNames, p.namespaces, q.facts.NamespaceLabels)
}

// nameOrLabels asks a list of names, or, when it is empty, a label selector.
func nameOrLabels(what, name string, names []string, selector labels.Selector, have map[string]string) string {
	switch {
	case len(names) > 0 && !slices.Contains(names, name):
		return fmt.Sprintf("does not serve %s %s (spec.%sName: %s)", what, name, what, strings.Join(names, ", "))
	case len(names) == 0 && selector != nil && !selector.Matches(labels.Set(have)):
		return fmt.Sprintf("does not serve %s %s, whose labels do not match (spec.%sAffinity: %s)", what, name, what,
			selector)
	}
	return ""
}

func rulePod(p *Pool, q question) string {
	if p.pods != nil && !p.pods.Matches(labels.Set(q.request.Pod.Labels)) {
		return fmt.Sprintf("does not serve this pod, whose labels do not match (spec.podAffinity: %s)", p.pods)
	}
	return ""
}

func ruleNetwork(p *Pool, q question) string {
	if len(p.networkNames) == 0 || q.elsewhere {
		return ""
	}
	for _, name := range p.networkNames {
		if !strings.Contains(name, "/") {
			name = q.facts.NetworkNamespace + "/" + name
		}
		if name == q.request.Network {
			return ""
		}
	}
	network := q.request.Network
	if network == "" {
		network = "without a name"
	}
	return fmt.Sprintf("does not serve network %s (spec.multusName: %s)", network, strings.Join(p.networkNames, ", "))
}

func ruleMasterSubnet(p *Pool, q question) string {
	switch r := q.request; {
	case !r.MatchMasterSubnet || q.elsewhere || slices.ContainsFunc(r.MasterAddresses, p.Subnet.Contains):
		return ""
	case r.MasterUnknown != "":
		return fmt.Sprintf(
			"has subnet %s, and the network asks for match_master_subnet, but the physical interface is not known: %s",
			p.Subnet, r.MasterUnknown)
	}
	return fmt.Sprintf(
		"has subnet %s, which holds none of the physical interface's addresses (%s), and the network asks for "+
			"match_master_subnet",
		p.Subnet, joinAddresses(q.request.MasterAddresses))
}

func joinAddresses(ips []netip.Addr) string {
	if len(ips) == 0 {
		return "it has none"
	}
	var texts []string
	for _, ip := range ips {
		texts = append(texts, ip.String())
	}
	return strings.Join(texts, ", ")
}

// affinityClass orders pools that nobody put in order: the more narrowly a pool is meant for this
// pod, the earlier it is tried.
func affinityClass(p *Pool) int {
	for class, present := range []bool{
		p.pods != nil, len(p.nodeNames) > 0, p.nodes != nil,
		len(p.namespaceNames) > 0, p.namespaces != nil, len(p.networkNames) > 0,
	} {
		if present {
			return class
		}
	}
	return 6
}

// SPDX-License-Identifier: Apache-2.0

package nad

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ib"
	"spidernet.io/spiderpool/internal/text"
)

// Selected are the networks that a pod's annotations ask for.
type Selected struct {
	// Default replaces the cluster's default network; nil when the pod does not ask.
	Default *cncfv1.NetworkSelectionElement
	// Networks are the further ones, in the order of the annotation.
	Networks []cncfv1.NetworkSelectionElement
}

// maxInterfaceName is IFNAMSIZ-1 (linux/if.h).
const maxInterfaceName = 15

// Bounds of what one annotation may ask for: each network is a record, a set of plugin calls and an
// element of the status, and a pod's annotation reaches the agents of a node with all its pods.
const (
	maxAnnotation = 64 << 10 // octets
	maxNetworks   = 100
	maxIPs        = 32  // addresses that one network is asked for
	maxGateways   = 8   // of one network
	maxPorts      = 256 // port mappings of one network
	maxGUIDText   = 64  // octets; the hardware address of IPoIB with its twenty octets is shorter
)

// shortName is what a name or namespace may be in the comma-separated form.
var shortName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// Selections reads the two annotations of a pod that name networks. In the
// result every element has a namespace: networks without one are in the pod's
// own, the default network without one is in defaultNetworkNamespace.
// Errors name the annotation, the position (from 1), and what is wrong there.
func Selections(annotations map[string]string, podNamespace, defaultNetworkNamespace string) (Selected, error) {
	var s Selected
	elements, err := parseAnnotation(annotations, cncfv1.AnnotationDefaultNetwork, defaultNetworkNamespace)
	if err != nil {
		return Selected{}, err
	}
	switch len(elements) {
	case 0:
	case 1:
		s.Default = &elements[0]
	default:
		return Selected{},
			fmt.Errorf("annotation %s names %d networks: want exactly one; further networks belong into annotation %s",
				cncfv1.AnnotationDefaultNetwork, len(elements), cncfv1.AnnotationNetworks)
	}
	s.Networks, err = parseAnnotation(annotations, cncfv1.AnnotationNetworks, podNamespace)
	if err != nil {
		return Selected{}, err
	}
	return s, nil
}

// CheckInjection refuses a pod that leaves the choice of its networks to Spiderpool's webhook,
// which this product does not have: it would run without them. A pod that names networks itself has
// what it names.
func CheckInjection(annotations map[string]string, s Selected) error {
	key := Injection(annotations)
	if key == "" || s.Default != nil || len(s.Networks) > 0 {
		return nil
	}
	return fmt.Errorf(
		"annotation %s: networks and resources are not injected into pods: name the networks with annotation %s or "+
			"%s, and their resources in resources.limits",
		key, cncfv1.AnnotationDefaultNetwork, cncfv1.AnnotationNetworks)
}

// Injection is the annotation by which a pod or a namespace asks Spiderpool's webhook for networks,
// "" when there is none.
func Injection(annotations map[string]string) string {
	for _, key := range v2beta1.InjectAnnotations {
		if annotations[key] != "" {
			return key
		}
	}
	return ""
}

// parseAnnotation reads one annotation; absent and blank ones name no network.
func parseAnnotation(annotations map[string]string, key, namespace string) ([]cncfv1.NetworkSelectionElement, error) {
	if n := len(annotations[key]); n > maxAnnotation {
		return nil, fmt.Errorf("annotation %s has %d octets: must have at most %d", key, n, maxAnnotation)
	}
	value := strings.TrimSpace(annotations[key])
	if value == "" {
		return nil, nil
	}
	parse := parseShort
	if strings.ContainsAny(value, `[{"`) {
		parse = parseJSON
	}
	elements, err := parse(value)
	if err != nil {
		return nil, fmt.Errorf("annotation %s: %w", key, err)
	}
	if key == cncfv1.AnnotationDefaultNetwork && len(elements) == 0 {
		return nil, fmt.Errorf("annotation %s is an empty list: want exactly one network, or no annotation", key)
	}
	for i := range elements {
		e := &elements[i]
		if e.Namespace == "" {
			e.Namespace = namespace
		}
		if e.InterfaceRequest == "" {
			e.InterfaceRequest = e.DeprecatedInterfaceRequest
		}
		e.DeprecatedInterfaceRequest = ""
		if err := checkElement(e); err != nil {
			return nil, fmt.Errorf("annotation %s, network %d: %w", key, i+1, err)
		}
	}
	return elements, nil
}

// parseShort reads "[namespace/]name[@interface], …".
func parseShort(value string) ([]cncfv1.NetworkSelectionElement, error) {
	if err := checkCount(strings.Count(value, ",") + 1); err != nil {
		return nil, err
	}
	var elements []cncfv1.NetworkSelectionElement
	for i, item := range strings.Split(value, ",") {
		e, err := parseShortItem(strings.TrimSpace(item))
		if err != nil {
			return nil, fmt.Errorf("network %d: %w", i+1, err)
		}
		elements = append(elements, e)
	}
	return elements, nil
}

func parseShortItem(item string) (cncfv1.NetworkSelectionElement, error) {
	var e cncfv1.NetworkSelectionElement
	if item == "" {
		return e, errors.New("is empty: want [namespace/]name[@interface]")
	}
	rest, ifname, hasInterface := strings.Cut(item, "@")
	namespace, name, hasNamespace := strings.Cut(rest, "/")
	if !hasNamespace {
		namespace, name = "", rest
	}
	e.Namespace, e.Name, e.InterfaceRequest = strings.TrimSpace(namespace), strings.TrimSpace(name),
		strings.TrimSpace(ifname)
	if hasNamespace && !shortName.MatchString(e.Namespace) {
		return e,
			fmt.Errorf("%s: namespace %s: want lower-case letters, digits and '-', with a letter or digit at both ends",
				text.Quote(item), text.Quote(e.Namespace))
	}
	if strings.Contains(e.Name, ".") && len(validation.IsDNS1123Subdomain(e.Name)) == 0 {
		return e, fmt.Errorf("%s: a name with a dot needs the JSON form: [{\"name\":%s}]", text.Quote(item),
			text.Quote(e.Name))
	}
	if !shortName.MatchString(e.Name) {
		return e,
			fmt.Errorf("%s: name %s: want lower-case letters, digits and '-', with a letter or digit at both ends",
				text.Quote(item), text.Quote(e.Name))
	}
	if hasInterface && e.InterfaceRequest == "" {
		return e, fmt.Errorf("%s: no interface name after '@'", text.Quote(item))
	}
	return e, nil
}

// parseJSON reads a JSON list of elements; unknown keys are left alone, as they may be another program's.
func parseJSON(value string) ([]cncfv1.NetworkSelectionElement, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal([]byte(value), &raw); err != nil {
		if strings.HasPrefix(value, "{") {
			return nil, errors.New("is a JSON object: want a list, put it into [ ]")
		}
		return nil, fmt.Errorf("%w: want a JSON list such as [{\"name\":\"ib-sriov\"}], or a comma-separated list; "+
			"found %s", text.JSONError(value, err), text.Excerpt(value))
	}
	if err := checkCount(len(raw)); err != nil {
		return nil, err
	}
	elements := make([]cncfv1.NetworkSelectionElement, len(raw))
	for i, r := range raw {
		if !bytes.HasPrefix(bytes.TrimSpace(r), []byte("{")) {
			return nil, fmt.Errorf("network %d: found %s: want a JSON object such as {\"name\":\"ib-sriov\"}", i+1,
				text.Excerpt(string(r)))
		}
		if err := json.Unmarshal(r, &elements[i]); err != nil {
			return nil, fmt.Errorf("network %d: %w", i+1, plainTypeError(err))
		}
	}
	return elements, nil
}

// plainTypeError says which key has which kind of value, in words of JSON rather than of Go.
func plainTypeError(err error) error {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return err
	}
	want := map[string]string{"string": "a string", "[]string": "a list of strings",
		"int": "a whole number"}[wrong.Type.String()]
	if want == "" {
		want = "a list or an object as the key needs"
	}
	return fmt.Errorf("key %q has a %s: want %s", wrong.Field, text.Excerpt(wrong.Value), want)
}

func checkCount(networks int) error {
	if networks > maxNetworks {
		return fmt.Errorf("names %d networks: must name at most %d", networks, maxNetworks)
	}
	return nil
}

func checkElement(e *cncfv1.NetworkSelectionElement) error {
	if e.Name == "" {
		return errors.New(`no name: want {"name": …} of a NetworkAttachmentDefinition`)
	}
	if err := checkShortInJSON(e); err != nil {
		return err
	}
	if problems := validation.IsDNS1123Subdomain(e.Name); len(problems) > 0 {
		return fmt.Errorf("name %s: %s", text.Quote(e.Name), strings.Join(problems, "; "))
	}
	if problems := validation.IsDNS1123Label(e.Namespace); len(problems) > 0 {
		return fmt.Errorf("namespace %s of network %s: %s", text.Quote(e.Namespace), text.Quote(e.Name),
			strings.Join(problems, "; "))
	}
	if err := checkInterface(e.InterfaceRequest); err != nil {
		return err
	}
	if err := checkHardware(e); err != nil {
		return err
	}
	if err := checkAddresses(e); err != nil {
		return err
	}
	if n := len(e.PortMappingsRequest); n > maxPorts {
		return fmt.Errorf("portMappings: %d are asked for: must be at most %d", n, maxPorts)
	}
	for i, p := range e.PortMappingsRequest {
		if p.HostPort < 1 || p.HostPort > 65535 || p.ContainerPort < 1 || p.ContainerPort > 65535 {
			return fmt.Errorf("portMappings %d: hostPort %d, containerPort %d: want 1 to 65535", i+1, p.HostPort,
				p.ContainerPort)
		}
	}
	return checkCNIArgs(e)
}

// checkShortInJSON refuses a name that is written as in the comma-separated form.
func checkShortInJSON(e *cncfv1.NetworkSelectionElement) error {
	rest, ifname, hasInterface := strings.Cut(e.Name, "@")
	namespace, name, hasNamespace := strings.Cut(rest, "/")
	switch {
	case hasNamespace && shortName.MatchString(namespace):
		return fmt.Errorf(
			"name %s contains a namespace: must be the name alone in the JSON form; write "+
				"\"namespace\": %s, \"name\": %s",
			text.Quote(e.Name), text.Quote(namespace), text.Quote(name))
	case hasInterface && !hasNamespace:
		return fmt.Errorf(
			"name %s contains an interface: must be the name alone in the JSON form; write "+
				"\"name\": %s, \"interface\": %s",
			text.Quote(e.Name), text.Quote(rest), text.Quote(ifname))
	}
	return nil
}

func checkInterface(name string) error {
	if len(name) > maxInterfaceName || name == "." || name == ".." || strings.ContainsAny(name, "/:") ||
		strings.ContainsFunc(name, notPrintable) {
		return fmt.Errorf("interface %s: want at most %d printable characters without '/', ':' and white space",
			text.Quote(name), maxInterfaceName)
	}
	if name == "lo" || name == CoordinatorVeth {
		return fmt.Errorf("interface %q: the name is taken in every pod: want another", name)
	}
	return nil
}

// notPrintable also refuses what is not ASCII: the kernel takes octets, and users mistake look-alikes.
func notPrintable(r rune) bool { return r <= ' ' || r > '~' }

func checkHardware(e *cncfv1.NetworkSelectionElement) error {
	if e.MacRequest != "" {
		if _, err := net.ParseMAC(e.MacRequest); err != nil {
			return fmt.Errorf("mac %s: want a hardware address such as 02:00:5e:10:00:01", text.Quote(e.MacRequest))
		}
	}
	if e.InfinibandGUIDRequest != "" {
		if len(e.InfinibandGUIDRequest) > maxGUIDText {
			return fmt.Errorf("infiniband-guid %s: want eight octets such as 02:00:5e:00:53:00:00:01",
				text.Quote(e.InfinibandGUIDRequest))
		}
		guid, err := ib.ParseGUID(e.InfinibandGUIDRequest)
		if err != nil {
			return fmt.Errorf("infiniband-guid: %w", err)
		}
		if !guid.Valid() {
			return fmt.Errorf(
				"infiniband-guid %q: all zeros and all ones are no GUIDs: want eight octets such as "+
					"02:00:5e:00:53:00:00:01", e.InfinibandGUIDRequest)
		}
	}
	if len(e.DeviceID) > text.MaxQuote || strings.ContainsAny(e.DeviceID, "/ \t\r\n") {
		return fmt.Errorf("deviceID %s: want the ID of a device, such as the PCI address 0000:86:00.1",
			text.Quote(e.DeviceID))
	}
	return nil
}

func checkAddresses(e *cncfv1.NetworkSelectionElement) error {
	if n := len(e.IPRequest); n > maxIPs {
		return fmt.Errorf("ips: %d addresses are asked for: must be at most %d", n, maxIPs)
	}
	if n := len(e.GatewayRequest); n > maxGateways {
		return fmt.Errorf("default-route: %d gateways: must be at most one of each family", n)
	}
	for _, ip := range e.IPRequest {
		_, prefixErr := netip.ParsePrefix(ip)
		_, addrErr := netip.ParseAddr(ip)
		if prefixErr != nil && addrErr != nil {
			return fmt.Errorf("ips: %s: want an address, with or without a prefix length, such as 172.91.0.100/16",
				text.Quote(ip))
		}
	}
	for _, gw := range e.GatewayRequest {
		if _, err := netip.ParseAddr(gw); err != nil {
			return fmt.Errorf("default-route: %s: want the address of a gateway", text.Quote(gw))
		}
	}
	return nil
}

func checkCNIArgs(e *cncfv1.NetworkSelectionElement) error {
	if e.CNIArgs == nil {
		return nil
	}
	var args map[string]json.RawMessage
	if err := json.Unmarshal(e.CNIArgs.Raw, &args); err != nil {
		return fmt.Errorf("cni-args: found %s: want a JSON object", text.Excerpt(string(e.CNIArgs.Raw)))
	}
	return nil
}

// CoordinatorVeth is the pod's end of the pair that leads to its node.
const CoordinatorVeth = "veth0"

// NameInterfaces gives every element its interface: the default network gets
// first (what the runtime asks for, eth0), the n-th further one netN unless it
// asks for a name. Two of one name are refused, and so is another name than
// first for the default network, because the runtime looks for the pod's
// address there.
func (s *Selected) NameInterfaces(first string) error {
	if d := s.Default; d != nil {
		if d.InterfaceRequest != "" && d.InterfaceRequest != first {
			return fmt.Errorf(
				"annotation %s: interface %q: the container runtime wants the default network on %s: leave the "+
					"interface out",
				cncfv1.AnnotationDefaultNetwork, d.InterfaceRequest, first)
		}
		d.InterfaceRequest = first
	}
	holder := map[string]string{first: "the default network"}
	for i := range s.Networks {
		e := &s.Networks[i]
		if e.InterfaceRequest == "" {
			e.InterfaceRequest = fmt.Sprintf("net%d", i+1)
		}
		who := fmt.Sprintf("network %d (%s)", i+1, e.Key())
		if other, taken := holder[e.InterfaceRequest]; taken {
			return fmt.Errorf(
				"annotation %s: %s and %s would both be interface %s: give one of them another name, as in %s@name",
				cncfv1.AnnotationNetworks, other, who, e.InterfaceRequest, e.Key())
		}
		holder[e.InterfaceRequest] = who
	}
	return nil
}

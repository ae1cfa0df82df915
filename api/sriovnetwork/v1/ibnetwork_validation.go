// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// NetworkTexts are the JSON texts of a network, each on one line and known to be of the right shape.
type NetworkTexts struct {
	Capabilities json.RawMessage   // an object; nil when absent
	IPAM         json.RawMessage   // an object; nil when absent or empty
	MetaPlugins  []json.RawMessage // objects, each with a type
}

// Validate judges a network and reads its texts, which count only when there is no error.
func (n *SriovIBNetwork) Validate() (texts NetworkTexts, errs field.ErrorList) {
	s, spec := &n.Spec, field.NewPath("spec")
	if !resourceNameRule.MatchString(s.ResourceName) {
		errs = append(errs, field.Invalid(spec.Child("resourceName"), s.ResourceName,
			"want a policy's resourceName, without a prefix: 1 to 63 letters, digits, '-' and '_', such as "+
				"mellanoxibsriov"))
	}
	if s.NetworkNamespace != "" && len(validation.IsDNS1123Label(s.NetworkNamespace)) > 0 {
		errs = append(errs, field.Invalid(spec.Child("networkNamespace"), s.NetworkNamespace,
			"want the name of a namespace: lower-case letters, digits and '-'"))
	}
	var err *field.Error
	if texts.Capabilities, err = s.capabilities(spec.Child("capabilities")); err != nil {
		errs = append(errs, err)
	}
	if texts.IPAM, err = s.ipam(spec.Child("ipam")); err != nil {
		errs = append(errs, err)
	}
	if texts.MetaPlugins, err = s.metaPlugins(spec.Child("metaPlugins")); err != nil {
		errs = append(errs, err)
	}
	return texts, errs
}

func (s *SriovIBNetworkSpec) capabilities(path *field.Path) (json.RawMessage, *field.Error) {
	const want = `want a JSON object of names and true or false, such as {"infinibandGUID": true}`
	return readText(path, s.Capabilities, 0, want, &map[string]bool{})
}

func (s *SriovIBNetworkSpec) ipam(path *field.Path) (json.RawMessage, *field.Error) {
	const want = `want the JSON object that configures an IPAM plugin, such as {"type": "spiderpool"}`
	var content map[string]json.RawMessage
	raw, bad := readText(path, s.IPAM, 0, want, &content)
	if bad != nil || len(content) == 0 {
		return nil, bad
	}
	switch pluginType(content) {
	case "":
		return nil, field.Invalid(path, s.IPAM, `it has no "type": `+want)
	case "dhcp":
		return nil, field.Invalid(path, s.IPAM,
			"ipam type dhcp does not work on InfiniBand: use spiderpool, host-local or static")
	}
	return raw, nil
}

func (s *SriovIBNetworkSpec) metaPlugins(path *field.Path) (out []json.RawMessage, bad *field.Error) {
	const want = `want JSON objects that configure plugins, separated by commas, such as {"type": "coordinator"}, {"type": "tuning"}`
	var contents []map[string]json.RawMessage
	if strings.TrimSpace(s.MetaPluginsConfig) == "" {
		return nil, nil
	}
	raw, bad := readText(path, "["+s.MetaPluginsConfig+"]", 1, want, &contents)
	if bad != nil {
		bad.BadValue = s.MetaPluginsConfig
		return nil, bad
	}
	for i, c := range contents {
		if pluginType(c) == "" {
			return nil, field.Invalid(path, s.MetaPluginsConfig, fmt.Sprintf(`plugin %d has no "type": %s`, i+1, want))
		}
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, field.Invalid(path, s.MetaPluginsConfig, want)
	}
	return out, nil
}

func pluginType(content map[string]json.RawMessage) (name string) {
	if json.Unmarshal(content["type"], &name) != nil {
		return ""
	}
	return name
}

// readText reads JSON text and returns it on one line; blank text is nil. ahead is the number of
// octets that were put before what the user wrote.
func readText(path *field.Path, text string, ahead int, want string, into any) (json.RawMessage, *field.Error) {
	if t := strings.TrimSpace(text); t == "" || t == "null" {
		return nil, nil
	}
	d := json.NewDecoder(strings.NewReader(text))
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			return nil, field.Invalid(path, text, fmt.Sprintf("%s: there is more behind the end of the JSON: %s",
				position(text, int(d.InputOffset()), ahead), want))
		}
		var compact bytes.Buffer
		if err = json.Compact(&compact, []byte(text)); err == nil {
			return compact.Bytes(), nil
		}
	}
	offset, what := len(text), err.Error()
	syntax, kind := (*json.SyntaxError)(nil), (*json.UnmarshalTypeError)(nil)
	switch {
	case errors.As(err, &syntax):
		offset = int(syntax.Offset)
	case errors.As(err, &kind):
		offset, what = int(kind.Offset), fmt.Sprintf("found a JSON %s", kind.Value)
	case errors.Is(err, io.ErrUnexpectedEOF):
		what = "the JSON ends too early"
	}
	return nil, field.Invalid(path, text, fmt.Sprintf("%s: %s: %s", position(text, offset, ahead), what, want))
}

// position is where in the user's text an offset is, for a person: the offset counts the octets up
// to and with the bad one.
func position(text string, offset, ahead int) string {
	before := text[min(ahead, len(text)):max(min(offset, len(text)), min(ahead, len(text)))]
	line := strings.Count(before, "\n") + 1
	column := len(before) - (strings.LastIndex(before, "\n") + 1)
	return fmt.Sprintf("line %d, column %d", line, max(column, 1))
}

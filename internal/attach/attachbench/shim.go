// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// ifname is what runtimes call a pod's first interface.
const ifname = "eth0"

// call executes the shim as a runtime does.
func (b *bench) call(verb string, s sandbox) error {
	cmd := exec.Command(b.shim)
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + s.container, "CNI_NETNS=" + s.netns,
		"CNI_IFNAME=" + ifname,
		"CNI_PATH=" + filepath.Dir(b.shim), "CNI_ARGS=" + arguments(s)}
	cmd.Stdin = bytes.NewReader(b.conf)
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", verb, answered(out, err))
	}
	return nil
}

func arguments(s sandbox) string {
	return strings.Join([]string{"IgnoreUnknown=1", "K8S_POD_NAMESPACE=" + s.Namespace, "K8S_POD_NAME=" + s.Name,
		"K8S_POD_INFRA_CONTAINER_ID=" + s.container, "K8S_POD_UID=" + s.UID}, ";")
}

// answered is the shim's own word for its failure, if it said one, and else how it ended.
func answered(out []byte, err error) error {
	var said struct {
		Msg     string `json:"msg"`
		Details string `json:"details"`
	}
	if json.Unmarshal(out, &said) == nil && said.Msg != "" {
		return errors.New(strings.TrimSuffix(said.Msg+"; "+said.Details, "; "))
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}

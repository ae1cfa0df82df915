// SPDX-License-Identifier: Apache-2.0

// Command spiderpool-cni is what a container runtime, or another CNI plugin,
// executes in place of each of our CNI plugins. It is installed once and linked
// under each plugin's name; it hands its name, its CNI_ variables and its
// standard input to the node's agent and prints the answer.
//
// It knows nothing of networks and keeps no state. It starts for every pod, so it links the
// standard library alone. For a person, --version prints its build. When the agent is away it waits
// a short time and then fails with the code that tells the runtime to try again.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/version"
)

// Limits of one call.
const (
	// waitForAgent bounds the wait for an agent that is restarting; the runtime's own retry comes after it.
	waitForAgent = 10 * time.Second
	// waitForStatus is short: the runtime asks for STATUS again and again.
	waitForStatus = time.Second
	// longestCall bounds the agent's work; runtimes give up earlier.
	longestCall = 3 * time.Minute
)

// versions are the CNI specification versions that our plugins speak.
var versions = []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

func main() {
	// A runtime gives no arguments; CNI's own verb VERSION is about the specification's versions,
	// not about ours.
	if len(os.Args) > 1 && (os.Args[1] == "--version" || os.Args[1] == "version") {
		os.Exit(succeed(os.Stdout, []byte(version.Get().Text("spiderpool-cni"))))
	}
	os.Exit(run(os.Args[0], os.Environ(), os.Stdin, os.Stdout))
}

// run is main with its surroundings as arguments; it returns the exit status.
func run(arg0 string, environ []string, stdin io.Reader, stdout io.Writer) int {
	env := cniVariables(environ)
	if env["CNI_COMMAND"] == "VERSION" {
		return succeed(stdout, versionAnswer())
	}
	if env["CNI_COMMAND"] == "" {
		return fail(stdout, nil, &cnisock.Error{Code: cnisock.CodeInvalidEnv, Msg: "CNI_COMMAND is not set",
			Details: "this is the CNI plugin spiderpool-cni " + version.Get().String() +
				": a container runtime calls it with CNI_COMMAND, CNI_CONTAINERID, CNI_NETNS and CNI_IFNAME"})
	}
	conf, err := io.ReadAll(io.LimitReader(stdin, cnisock.MaxFrame))
	if err != nil {
		return fail(stdout, nil, &cnisock.Error{Code: cnisock.CodeIO,
			Msg: "read the network configuration from standard input", Details: err.Error()})
	}
	ctx, cancel := context.WithTimeout(context.Background(), longestCall)
	defer cancel()
	req := cnisock.Request{Plugin: filepath.Base(arg0), Env: env, Stdin: conf}
	path := socketPath(environ, conf)
	resp, err := cnisock.CallWaiting(ctx, path, req, patience(env["CNI_COMMAND"]))
	if err != nil {
		return fail(stdout, conf, callError(path, err))
	}
	if resp.Error != nil {
		return fail(stdout, conf, resp.Error)
	}
	return succeed(stdout, resp.Stdout)
}

func patience(command string) time.Duration {
	if command == "STATUS" {
		return waitForStatus
	}
	return waitForAgent
}

func callError(path string, err error) *cnisock.Error {
	if gone := (*cnisock.Away)(nil); !errors.As(err, &gone) {
		return &cnisock.Error{Code: cnisock.CodeDecode, Msg: "the network configuration is too large",
			Details: err.Error()}
	}
	return &cnisock.Error{Code: cnisock.CodeTryAgainLater, Msg: "the spiderpool agent on this node does not answer",
		Details: fmt.Sprintf(
			"socket %s: %v; see `kubectl get pod -A -o wide | grep spiderpool-agent` for this node's agent", path, err)}
}

func cniVariables(environ []string) map[string]string {
	env := map[string]string{}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.HasPrefix(name, "CNI_") {
			env[name] = value
		}
	}
	return env
}

// socketPath is the configuration's ipam.ipam_unix_socket_path, or the same key at its top (where
// ours has no ipam), else the environment's, else the default.
func socketPath(environ []string, conf []byte) string {
	var c struct {
		Socket string `json:"ipam_unix_socket_path"`
		IPAM   struct {
			Socket string `json:"ipam_unix_socket_path"`
		} `json:"ipam"`
	}
	// A configuration that does not parse is the agent's to refuse.
	if json.Unmarshal(conf, &c) == nil && cmp.Or(c.IPAM.Socket, c.Socket) != "" {
		return cmp.Or(c.IPAM.Socket, c.Socket)
	}
	for _, pair := range environ {
		if value, ok := strings.CutPrefix(pair, cnisock.PathVariable+"="); ok && value != "" {
			return value
		}
	}
	return cnisock.DefaultPath
}

func versionAnswer() []byte {
	// strings only: cannot fail
	out, _ := json.Marshal(map[string]any{"cniVersion": versions[len(versions)-1], "supportedVersions": versions})
	return out
}

func succeed(stdout io.Writer, out []byte) int {
	if _, err := stdout.Write(out); err != nil {
		return 1
	}
	return 0
}

// fail prints the error object in the configuration's version, as the specification wants. A code
// of 0 would be success.
func fail(stdout io.Writer, conf []byte, e *cnisock.Error) int {
	e.Code = cmp.Or(e.Code, cnisock.CodeInternal)
	e.Msg = cmp.Or(e.Msg, "the spiderpool agent on this node refused and does not say why; see its log")
	var c struct {
		CNIVersion string `json:"cniVersion"`
	}
	if e.CNIVersion == "" && json.Unmarshal(conf, &c) == nil {
		e.CNIVersion = c.CNIVersion
	}
	if e.CNIVersion == "" {
		e.CNIVersion = versions[len(versions)-1]
	}
	json.NewEncoder(stdout).Encode(e) // a broken pipe leaves nobody to tell; the exit status still does
	return 1
}

// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
)

// script puts a plugin on disk. It writes its environment and standard input beside itself and then
// runs body.
func script(t *testing.T, dir, name, body string) {
	t.Helper()
	text := "#!/bin/sh\nenv > " + dir + "/" + name + ".env.$CNI_COMMAND\ncat > " + dir + "/" + name +
		".in.$CNI_COMMAND\n" + body + "\n"
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// spy is a plugin of ours that remembers its calls.
type spy struct {
	calls []string
	last  *Request
	err   error
}

func (s *spy) Add(ctx context.Context, r *Request) (*types100.Result, error) {
	s.calls, s.last = append(s.calls, "ADD"), r
	res := &types100.Result{Interfaces: []*types100.Interface{{Name: r.IfName, Mac: "02:00:00:00:00:01", Mtu: 2044,
		Sandbox: string(r.NetNS), PciID: "0000:86:00.1"}}}
	if r.Prev != nil {
		return r.Prev, s.err
	}
	if r.IPAM != nil {
		got, err := Addresses(ctx, r, 0)
		if err != nil {
			return nil, err
		}
		res.IPs = got.IPs
	}
	return res, s.err
}

func (s *spy) Del(ctx context.Context, r *Request) error {
	s.calls, s.last = append(s.calls, "DEL"), r
	if r.IPAM != nil {
		return errors.Join(r.IPAM.Del(ctx), s.err)
	}
	return s.err
}

func (s *spy) Check(_ context.Context, r *Request) error {
	s.calls, s.last = append(s.calls, "CHECK"), r
	return s.err
}

const diskResult = `echo '{"cniVersion":"0.3.1","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/ns"}],"ips":[{"version":"4","address":"10.0.0.2/24","interface":0}]}'`

func testCall(dir string) Call {
	return Call{ContainerID: "c1", NetNS: "/ns", IfName: "eth0", Args: "A=b;K8S_POD_NAME=p", BinDirs: []string{dir},
		Capabilities: map[string]any{"mac": "aa", "ips": []string{"10.0.0.9"}}}
}

func TestListOfBothKinds(t *testing.T) {
	t.Setenv("SECRET", "of the agent")
	dir := t.TempDir()
	script(t, dir, "disk", diskResult)
	ours := &spy{}
	r := &Runner{Plugins: map[string]Plugin{"ours": ours}}
	list, err := Parse([]byte(
		`{"cniVersion":"0.3.1","name":"net","plugins":[{"type":"disk","capabilities":{"mac":true,"ips":false}},{"type":"ours"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	res, err := r.Add(context.Background(), list, testCall(dir))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.IPs) != 1 || res.IPs[0].Address.String() != "10.0.0.2/24" || res.CNIVersion != "1.1.0" {
		t.Errorf("result %+v", res)
	}
	if ours.last.Prev == nil || ours.last.Args["K8S_POD_NAME"] != "p" || ours.last.Network != "net" {
		t.Errorf("request %+v", ours.last)
	}
	var in map[string]any
	if err := json.Unmarshal([]byte(read(t, dir, "disk.in.ADD")), &in); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"mac": "aa"}, in["runtimeConfig"]); diff != "" || in["name"] != "net" {
		t.Errorf("standard input %v: %s", in, diff)
	}
	env := read(t, dir, "disk.env.ADD")
	for _, want := range []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_NETNS=/ns", "CNI_IFNAME=eth0",
		"CNI_ARGS=A=b;K8S_POD_NAME=p", "CNI_PATH=" + dir} {
		if !strings.Contains(env, want+"\n") {
			t.Errorf("environment lacks %s:\n%s", want, env)
		}
	}
	if strings.Contains(env, "SECRET") {
		t.Errorf("the agent's environment reached the plugin:\n%s", env)
	}

	if err := r.Check(context.Background(), list, testCall(dir), res); err != nil || len(ours.calls) != 1 {
		t.Errorf("CHECK is not in 0.3.1: %v, %v", err, ours.calls)
	}
	if err := r.Del(context.Background(), list, testCall(dir), res); err != nil {
		t.Error(err)
	}
	if !strings.Contains(read(t, dir, "disk.in.DEL"), `"prevResult"`) {
		t.Error("DEL of the plugin on disk lacks prevResult")
	}
}

// MTU and PCI address survive a chain of an older version, in which no result can carry them.
func TestOldVersionsKeepWhatOurPluginsSaid(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "disk", diskResult)
	r := &Runner{Plugins: map[string]Plugin{"ours": &spy{}}}
	list, err := Parse([]byte(`{"cniVersion":"0.3.1","name":"net","plugins":[{"type":"ours"},{"type":"disk"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	res, err := r.Add(context.Background(), list, testCall(dir))
	if err != nil {
		t.Fatal(err)
	}
	if res.Interfaces[0].Mtu != 2044 || res.Interfaces[0].PciID != "0000:86:00.1" {
		t.Errorf("interface %+v", res.Interfaces[0])
	}
}

func TestForeignIPAM(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "host-local",
		`[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.5/16","gateway":"10.1.0.1"}]}' || true`)
	script(t, dir, "empty", `echo '{"cniVersion":"1.0.0"}'`)
	r := &Runner{Plugins: map[string]Plugin{"ours": &spy{}}}
	for ipam, wantErr := range map[string]string{"host-local": "", "empty": "returned no address",
		"absent": `failed to find plugin "absent"`} {
		list, err := Parse([]byte(`{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"ours","ipam":{"type":"` +
			ipam + `"}}]}`))
		if err != nil {
			t.Fatal(err)
		}
		res, err := r.Add(context.Background(), list, testCall(dir))
		if wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), wantErr) {
				t.Errorf("%s: %v, want %q", ipam, err, wantErr)
			}
			continue
		}
		if err != nil || len(res.IPs) != 1 || *res.IPs[0].Interface != 0 {
			t.Fatalf("%s: %+v, %v", ipam, res, err)
		}
		if err := r.Del(context.Background(), list, testCall(dir), nil); err != nil {
			t.Error(err)
		}
		if !strings.Contains(read(t, dir, "host-local.in.DEL"), `"host-local"`) {
			t.Error("DEL did not reach the address management")
		}
	}
}

// DEL goes through the whole list, whatever single plugins say.
func TestDelGoesOn(t *testing.T) {
	first, second := &spy{}, &spy{err: errors.New("second is stuck")}
	r := &Runner{Plugins: map[string]Plugin{"first": first, "second": second}}
	list, err := Parse([]byte(`{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"first"},{"type":"second"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	err = r.Del(context.Background(), list, testCall(t.TempDir()), nil)
	if err == nil || !strings.Contains(err.Error(), "plugin second: second is stuck") || len(first.calls) != 1 {
		t.Errorf("err %v, first called %v", err, first.calls)
	}
}

// A plugin on disk that is too old for the configuration's version refuses ADD, and has nothing to undo.
func TestDelOfAPluginThatIsTooOld(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "disk", `echo '{"cniVersion":"1.1.0","code":1,"msg":"incompatible CNI versions"}'; exit 1`)
	r := &Runner{}
	list, err := Parse([]byte(`{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"disk"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Add(context.Background(), list, testCall(dir)); err == nil ||
		Wire(err).Code != CodeIncompatibleVersion {
		t.Errorf("ADD: %v, want code %d", err, CodeIncompatibleVersion)
	}
	if err := r.Del(context.Background(), list, testCall(dir), nil); err != nil {
		t.Errorf("DEL: %v", err)
	}
}

func TestErrorsOfPluginsOnDisk(t *testing.T) {
	for name, test := range map[string]struct {
		body string
		code uint
		says []string
	}{
		"error object": {`echo '{"cniVersion":"1.0.0","code":7,"msg":"bad master","details":"eth9"}'; exit 1`, 7,
			[]string{"plugin disk: bad master"}},
		"only a number": {`echo oops >&2; exit 3`, CodeFailed, []string{"/disk", "exit status 3", "oops"}},
		"no JSON":       {`echo hello`, CodeFailed, []string{"plugin disk"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script(t, dir, "disk", test.body)
			list, err := Parse([]byte(`{"cniVersion":"1.0.0","name":"net","type":"disk"}`))
			if err != nil {
				t.Fatal(err)
			}
			_, err = (&Runner{}).Add(context.Background(), list, testCall(dir))
			if err == nil {
				t.Fatal("no error")
			}
			wire := Wire(err)
			for _, want := range test.says {
				if wire.Code != test.code || !strings.Contains(wire.Msg, want) {
					t.Errorf("error %+v: want code %d and %q", wire, test.code, want)
				}
			}
		})
	}
}

// A plugin on disk hands on what the shim needs, should it delegate its addresses to us.
func TestEnvOfPluginsOnDisk(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "disk", diskResult)
	list, err := Parse([]byte(`{"cniVersion":"0.3.1","name":"net","type":"disk"}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&Runner{Env: []string{"SPIDERPOOL_SOCKET=/run/other.sock"}}).Add(context.Background(), list,
		testCall(dir)); err != nil {
		t.Fatal(err)
	}
	if env := read(t, dir, "disk.env.ADD"); !strings.Contains(env, "SPIDERPOOL_SOCKET=/run/other.sock\n") {
		t.Errorf("environment:\n%s", env)
	}
}

// A plugin that hangs is ended, whoever waits for it; one that has ended counts as ended, whatever
// it left running.
func TestPluginsOnDiskEnd(t *testing.T) {
	for name, test := range map[string]struct {
		body  string
		limit time.Duration
		ok    bool
	}{
		"hangs":            {`sleep 15 >/dev/null 2>&1; touch "$0.late"; ` + diskResult, time.Second, false},
		"leaves a process": {`(sleep 15; touch "$0.late") & ` + diskResult, time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script(t, dir, "disk", test.body)
			list, err := Parse([]byte(`{"cniVersion":"0.3.1","name":"net","type":"disk"}`))
			if err != nil {
				t.Fatal(err)
			}
			_, err = (&Runner{DiskTimeout: test.limit}).Add(context.WithoutCancel(t.Context()), list, testCall(dir))
			if test.ok != (err == nil) || err != nil && Wire(err).Code != CodeTryAgainLater {
				t.Errorf("error %v", err)
			}
			if _, err := os.Stat(filepath.Join(dir, "disk.late")); err == nil {
				t.Error("what the plugin waits for was waited for")
			}
		})
	}
}

// Some runtimes end CNI_ARGS with a semicolon.
func TestParseArgs(t *testing.T) {
	args, err := parseArgs("A=b;C=d=e;")
	if diff := cmp.Diff(map[string]string{"A": "b", "C": "d=e"}, args); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if _, err := parseArgs("A=b;C"); err == nil {
		t.Error("a pair without a value was taken")
	}
}

func TestParseRefuses(t *testing.T) {
	for name, config := range map[string]string{
		"not JSON":    `{`,
		"no type":     `{"cniVersion":"1.0.0","name":"x"}`,
		"meta plugin": `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"multus"}]}`,
		"number":      `7`,
	} {
		if _, err := Parse([]byte(config)); err == nil || Wire(err).Code != CodeInvalidConfig {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := &Runner{}
	for _, plugin := range []string{"../../bin/sh", "", "none"} {
		if _, err := r.session(Call{}).FindInPath(plugin, []string{t.TempDir()}); err == nil {
			t.Errorf("found %q", plugin)
		}
	}
}

// A plugin is looked for below the runner's root, without following links out of it, and named by
// its path there.
func TestFindBelowRoot(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "opt/cni/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/usr/lib/cni/bridge", filepath.Join(root, "opt/cni/bin/bridge")); err != nil {
		t.Fatal(err)
	}
	s := (&Runner{Root: root}).session(Call{})
	if path, err := s.FindInPath("bridge", s.dirs()); err != nil || path != "/opt/cni/bin/bridge" {
		t.Errorf("%s, %v", path, err)
	}
}

// Neither a plugin on disk nor a configuration makes an error that no log or event can carry.
func TestErrorsAreShort(t *testing.T) {
	long := strings.Repeat("x", 500_000)
	for name, plugin := range map[string]string{
		"error object": `echo '{"code":100,"msg":"'$(head -c 500000 /dev/zero | tr '\0' x)'"}'; exit 1`,
		"stdout":       `head -c 500000 /dev/zero | tr '\0' x; exit 1`,
		"stderr":       `head -c 500000 /dev/zero | tr '\0' x >&2; exit 1`,
	} {
		dir := t.TempDir()
		script(t, dir, "disk", plugin)
		list, err := Parse([]byte(`{"cniVersion":"1.0.0","name":"net","type":"disk"}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = (&Runner{}).Add(t.Context(), list, testCall(dir)); err == nil || len(err.Error()) > 5000 {
			t.Errorf("%s: an error of %d octets", name, len(fmt.Sprint(err)))
		}
	}
	for name, config := range map[string]string{"name": `{"cniVersion":"1.0.0","name":"` + long + `","type":"disk"}`,
		"type": `{"cniVersion":"1.0.0","name":"n","type":"` + long + `"}`,
		"ipam": `{"cniVersion":"1.0.0","name":"n","type":"disk","ipam":{"type":"` + long + `"}}`} {
		list, err := Parse([]byte(config))
		if err != nil {
			t.Fatal(err)
		}
		err = (&Runner{Plugins: map[string]Plugin{"disk": &spy{}}}).Installed(list, nil)
		if err == nil || len(err.Error()) > 1024 {
			t.Errorf("%s: an error of %d octets", name, len(fmt.Sprint(err)))
		}
	}
	if wire := Wire(Errorf(CodeFailed, "the remedy", "reason %s", long)); len(wire.Msg)+len(wire.Details) > 5000 ||
		!strings.HasPrefix(wire.Msg, "reason") || wire.Details != "the remedy" {
		t.Errorf("an error object of %d octets", len(wire.Msg)+len(wire.Details))
	}
}

func TestWire(t *testing.T) {
	inner := Errorf(CodeInvalidConfig, "do this", "it is bad: %w", os.ErrNotExist)
	for name, test := range map[string]struct {
		err  error
		want types.Error
	}{
		"plain": {errors.New("x"), types.Error{Code: CodeFailed, Msg: "x"}},
		"ours": {inner, types.Error{Code: CodeInvalidConfig, Msg: "it is bad: file does not exist",
			Details: "do this"}},
		"wrapped": {fmt.Errorf("attach: %w", inner), types.Error{Code: CodeInvalidConfig,
			Msg: "attach: it is bad: file does not exist", Details: "do this"}},
		"theirs": {fmt.Errorf("plugin x: %w", &types.Error{Code: 11, Msg: "later", Details: "busy"}),
			types.Error{Code: 11, Msg: "plugin x: later", Details: "busy"}},
		"cut short": {fmt.Errorf("attach: %w", context.Canceled), types.Error{Code: CodeTryAgainLater,
			Msg: "attach: context canceled"}},
	} {
		if diff := cmp.Diff(&test.want, Wire(test.err)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if !errors.Is(inner, os.ErrNotExist) {
		t.Error("the cause is lost")
	}
}

func TestPhases(t *testing.T) {
	var p Phases
	endOuter := p.Start("outer")
	p.Start("inner")()
	endOuter()
	p.Start("outer")()
	var names []string
	for _, one := range p.List() {
		names = append(names, one.Name)
	}
	if diff := cmp.Diff([]string{"outer", "inner"}, names); diff != "" {
		t.Error(diff)
	}
	var none *Phases
	none.Start("x")()
	if none.List() != nil {
		t.Error("nil collected something")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(
		[]byte(
			`{"cniVersion":"0.3.1","name":"a","plugins":[{"type":"x","ipam":{"type":"y"},"prevResult":{"ips":[{}]}}]}`))
	f.Add([]byte(`{"type":"x","cniVersion":1}`))
	f.Add([]byte(`{"plugins":[null]}`))
	r := &Runner{Plugins: map[string]Plugin{"x": &spy{}}}
	f.Fuzz(func(t *testing.T, config []byte) {
		list, err := Parse(config)
		if err != nil {
			return
		}
		call := testCall(t.TempDir())
		res, err := r.Add(context.Background(), list, call)
		if err == nil && res == nil {
			t.Error("neither result nor error")
		}
		_ = r.Del(context.Background(), list, call, res) // must only return
	})
}

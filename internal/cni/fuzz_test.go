// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// FuzzPrevResult: whatever stands before it in the chain, a plugin of ours gets a result without
// gaps, or the call is refused as one that does not decode; its DEL is let through.
func FuzzPrevResult(f *testing.F) {
	for _, seed := range []string{
		`{"cniVersion":"1.0.0","prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/ns"}],"ips":[{"address":"172.91.0.100/16","gateway":"172.91.0.1","interface":0}],"routes":[{"dst":"0.0.0.0/0"}]}}`,
		`{"cniVersion":"0.3.1","prevResult":{"cniVersion":"0.3.1","ips":[{"version":"4","address":"172.91.0.100/16"}]}}`,
		`{"cniVersion":"0.2.0","prevResult":{"cniVersion":"0.2.0","ip4":{"ip":"172.91.0.100/16","routes":[{"dst":"10.0.0.0/8"}]}}}`,
		`{"cniVersion":"1.1.0","prevResult":{"interfaces":[null]}}`,
		`{"cniVersion":"0.4.0","prevResult":{"ips":[null]}}`,
		`{"cniVersion":"1.0.0","prevResult":{"Routes":[null],"ips":7}}`,
		`{"cniVersion":"9","prevResult":{}}`, `{"prevResult":null}`, `{"prevResult":[]}`, `null`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, conf []byte) {
		got := &seen{}
		r := &Runner{Plugins: map[string]Plugin{"ours": got}}
		_, err := r.Direct(context.Background(), "ours", "ADD", conf, testCall(t.TempDir()))
		// of the plugin here, which is empty
		if err == nil && !got.called || err != nil && got.called && !strings.Contains(err.Error(),
			"convert the result to version") {
			t.Fatalf("%s: called: %t, and %v", conf, got.called, err)
		}
		if !got.called {
			if code := Wire(err).Code; code != CodeDecode {
				t.Fatalf("%s: code %d, %v", conf, code, err)
			}
			var parsed json.RawMessage
			if json.Unmarshal(conf, &parsed) == nil && strings.Contains(err.Error(), "prevResult does not parse") {
				if _, err := r.Direct(context.Background(), "ours", "DEL", conf, testCall(t.TempDir())); err != nil {
					t.Fatalf("%s: DEL: %v", conf, err)
				}
			}
			return
		}
		if got.prev == nil {
			return
		}
		for _, i := range got.prev.Interfaces {
			_ = i.Name
		}
		for _, i := range got.prev.IPs {
			_ = i.Address
		}
		for _, i := range got.prev.Routes {
			_ = i.Dst
		}
		if _, err := got.prev.GetAsVersion("0.3.1"); err != nil && err.Error() == "" {
			t.Fatal(err)
		}
	})
}

// seen is a plugin that keeps the result before it.
type seen struct {
	called bool
	prev   *types100.Result
}

func (s *seen) Add(_ context.Context, r *Request) (*types100.Result, error) {
	s.called, s.prev = true, r.Prev
	return &types100.Result{}, nil
}

func (*seen) Del(context.Context, *Request) error   { return nil }
func (*seen) Check(context.Context, *Request) error { return nil }

// A result with gaps is the fault of the plugin on disk that printed it, wherever it is read.
func TestResultsWithGaps(t *testing.T) {
	for _, what := range []string{"interfaces", "ips", "routes"} {
		dir := t.TempDir()
		script(t, dir, "disk", `echo '{"cniVersion":"0.3.1","`+what+`":[null]}'`)
		r := &Runner{Plugins: map[string]Plugin{"ours": &spy{}}}
		for _, plugins := range []string{`{"type":"disk"}`, `{"type":"disk"},{"type":"ours"}`,
			`{"type":"ours","ipam":{"type":"disk"}}`} {
			list, err := Parse([]byte(`{"cniVersion":"0.3.1","name":"net","plugins":[` + plugins + `]}`))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Add(context.Background(), list, testCall(dir)); err == nil || !strings.Contains(err.Error(),
				"the result of "+dir+"/disk: "+what+"[0] is null") {
				t.Errorf("%s: %v", plugins, err)
			}
		}
	}
}

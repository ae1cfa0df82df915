// SPDX-License-Identifier: Apache-2.0

package initjob_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/initjob"
)

// FuzzParseDefaults: what is no single JSON object of the known keys is refused, in words that say
// what was found; all else is read the same when it is written anew.
func FuzzParseDefaults(f *testing.F) {
	for _, seed := range []string{
		`{"agents":"spiderpool-agent","coordinator":{"name":"default","spec":{"hijackCIDR":["169.254.0.0/16"],"mode":"auto","podCIDRType":"auto","policyRoutes":[],"tunePodRoutes":true,"vethMTU":1500}},` +
			`"deployments":["spiderpool-controller","spiderpool-sriov-operator"],"pools":[{"gateway":"10.6.0.1","ips":["10.6.0.10-10.6.0.20"],"name":"default-v4-ippool","subnet":"10.6.0.0/16"}],` +
			`"sriovOperatorConfig":{"spec":{"configDaemonNodeSelector":{"kubernetes.io/os":"linux"},"configurationMode":"daemon","disableDrain":true,"enableInjector":false,"enableOperatorWebhook":true,"logLevel":2}}}`,
		`{"coordinator":null,"pools":[null]}`, `{}`, `null`, ``, `{"agents":7}`, `{"agent":"x"}`, `{} {}`,
		`{"agents":"a"}}`, `[]`, `{"coordinator":{"spec":{"a":1e400}}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := initjob.ParseDefaults(text)
		if err != nil {
			if !strings.Contains(err.Error(), "default objects") {
				t.Fatalf("the refusal %q does not say of what", err)
			}
			return
		}
		if trimmed := strings.TrimSpace(text); !strings.HasPrefix(trimmed, "{") || !json.Valid([]byte(text)) {
			t.Fatalf("%q is taken for %+v", text, got)
		}
		written, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		again, err := initjob.ParseDefaults(string(written))
		if err != nil {
			t.Fatalf("%q is written as %s, which is refused: %v", text, written, err)
		}
		if twice, err := json.Marshal(again); err != nil || string(twice) != string(written) {
			t.Fatalf("%q: %s", text, cmp.Diff(string(written), string(twice)))
		}
	})
}

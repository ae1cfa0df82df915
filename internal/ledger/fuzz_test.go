// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"spidernet.io/spiderpool/internal/ib"
)

// FuzzDecode: a value of the file is of a later version, or no record, or a record that is the same
// when it is written anew.
func FuzzDecode(f *testing.F) {
	since := time.Date(2025, 1, 2, 3, 4, 5, 6, time.UTC)
	guid := ib.GUIDFromUint64(0x0200000000000001)
	for i, record := range []any{
		Sandbox{ContainerID: "c", NetNS: "/var/run/netns/cni-1", Pod: Pod{"default", "p", "u"}, Created: since,
			StatusPending: true, Attachments: []Attachment{{Network: "ib-sriov", IfName: "eth0",
				NAD: "kube-system/ib-sriov", Default: true,
				Config: json.RawMessage(`{"plugins":[{"type":"ib-sriov"}]}`), DeviceID: "0000:86:00.1", Phase: Done,
				State: map[string]json.RawMessage{"ib-sriov": json.RawMessage(`{}`)},
				Direct: []DirectCall{{Plugin: "rdma", Conf: json.RawMessage(`{"a":"<"}`), Done: true,
					Result: []byte("x")}}}}},
		Release{PodUID: "u", Sandbox: "c", Interface: "eth0", Since: since}, VF{PCI: "0000:86:00.1", PF: "0000:86:00.0",
			Index: 1, GUID: guid, PFGUID: guid, Adopted: true},
		Verbs{PCI: "0000:86:00.1", Name: "uverbs3", Umad: "umad3"}, HandOut{Lease: "l", Pool: "p", IP: "172.91.0.100",
			Since: since},
	} {
		value, err := encode(record)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), value)
	}
	for _, value := range []string{`{"v":2,"data":{}}`, `{"v":1}`, `{"v":1,"data":null}`, `{"v":1,"data":[]}`,
		`{"v":0,"data":{}}`, `{"v":1,"data":{"guid":"x"}}`, `null`, ``, `{"v":1,"data":{}}{}`} {
		f.Add(uint8(0), []byte(value))
	}
	f.Fuzz(func(t *testing.T, bucket uint8, value []byte) {
		in := liveBuckets[int(bucket)%len(liveBuckets)]
		records := map[string]func() any{string(bucketSandboxes): func() any { return &Sandbox{} },
			string(bucketReleases): func() any { return &Release{} },
			string(bucketVFs):      func() any { return &VF{} }, string(bucketVerbs): func() any { return &Verbs{} },
			string(bucketHandOuts): func() any { return &HandOut{} }}
		record := records[string(in)]()
		err := decode(value, record)
		if anyErr := decodeAny(in, value); (anyErr == nil) != (err == nil) ||
			errors.Is(anyErr, ErrNewer) != errors.Is(err, ErrNewer) {
			t.Fatalf("%s: %v, and when the file is opened %v", value, err, anyErr)
		}
		var e envelope
		envelopeErr := json.Unmarshal(value, &e)
		if newer := envelopeErr == nil && e.Version > version; newer != errors.Is(err, ErrNewer) {
			t.Fatalf("%s of version %d: %v", value, e.Version, err)
		}
		if err != nil {
			return
		}
		if e.Version != version || !bytes.HasPrefix(bytes.TrimSpace(e.Data), []byte("{")) {
			t.Fatalf("%s is taken for a record of version %d", value, e.Version)
		}
		once, err := encode(record)
		if err != nil {
			t.Fatalf("%s is read, and cannot be written: %v", value, err)
		}
		again := records[string(in)]()
		if err := decode(once, again); err != nil {
			t.Fatalf("%s is written as %s, which is unreadable: %v", value, once, err)
		}
		if twice, err := encode(again); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s is written as %s, and that as %s, %v", value, once, twice, err)
		}
	})
}

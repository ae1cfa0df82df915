// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"spidernet.io/spiderpool/internal/leases"
	"spidernet.io/spiderpool/internal/ledger"
)

func TestAttachedAddresses(t *testing.T) {
	book, _, err := ledger.Open(filepath.Join(t.TempDir(), "l"))
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	result := json.RawMessage(`{"cniVersion":"1.1.0","ips":[{"address":"172.91.0.100/16"},{"address":"fd00::1/64"}]}`)
	ours := map[string]json.RawMessage{"spiderpool": json.RawMessage(`{}`)}
	err = book.UpdateSandbox("s", func(sb *ledger.Sandbox) error {
		sb.Pod = ledger.Pod{Namespace: "d", Name: "p", UID: "1"}
		sb.Attachments = []ledger.Attachment{
			{Network: "a", IfName: "eth0", Phase: ledger.Done, State: ours, Result: result},
			{Network: "b", IfName: "net1", Phase: ledger.Adding, State: ours, Result: result},
			{Network: "c", IfName: "net2", Phase: ledger.Done, Result: result}, // of another address management
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := attachedAddresses(book)
	at := leases.Attached{Namespace: "d", Name: "p", UID: "1", Interface: "eth0", Sandbox: "s"}
	v4, v6 := at, at
	v4.IP, v6.IP = netip.MustParseAddr("172.91.0.100"), netip.MustParseAddr("fd00::1")
	if diff := cmp.Diff([]leases.Attached{v4, v6}, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" ||
		err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"spidernet.io/spiderpool/internal/ib"
)

func open(t testing.TB, path string) *Ledger {
	t.Helper()
	l, damage, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if damage != nil {
		t.Fatalf("unexpected damage: %s", damage)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestSandboxSurvivesReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "ledger.db")
	l := open(t, path)
	want := Attachment{Network: "ib-sriov", IfName: "eth0", NAD: "kube-system/ib-sriov", Phase: Adding,
		DeviceID: "0000:86:00.1",
		Config:   json.RawMessage(`{"a":1}`), State: map[string]json.RawMessage{"ib-sriov": json.RawMessage(`{"x":2}`)}}
	pod := Pod{Namespace: "default", Name: "p", UID: "u"}
	err := l.UpdateSandbox("c1", func(s *Sandbox) error {
		s.NetNS, s.Pod = "/var/run/netns/x", pod
		s.Attachments = append(s.Attachments, want)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	l = open(t, path)
	s, ok := l.Sandbox("c1")
	if !ok {
		t.Fatal("the sandbox is not there")
	}
	if diff := cmp.Diff(&want, s.Attachment("ib-sriov", "eth0")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]Pod{"0000:86:00.1": pod}, l.DevicesInUse()); diff != "" {
		t.Error(diff)
	}
}

func TestUpdateThatFailsChangesNothing(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "l"))
	boom := errors.New("boom")
	err := l.UpdateSandbox("c", func(s *Sandbox) error {
		s.Attachments = append(s.Attachments, Attachment{Network: "n"})
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatalf("err = %v", err)
	}
	if _, ok := l.Sandbox("c"); ok {
		t.Error("a failed update was written")
	}
}

func TestSandboxWithoutAttachmentsIsForgotten(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "l"))
	add := func(s *Sandbox) error {
		s.Attachments = append(s.Attachments, Attachment{Network: "n", IfName: "eth0"})
		return nil
	}
	for _, fn := range []func(*Sandbox) error{add, func(s *Sandbox) error { s.Remove("n", "eth0"); return nil }} {
		if err := l.UpdateSandbox("c", fn); err != nil {
			t.Fatal(err)
		}
	}
	if all := l.Sandboxes(); len(all) != 0 {
		t.Errorf("Sandboxes = %v", all)
	}
}

func TestVFsAndReleases(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "l"))
	vf := VF{PCI: "0000:86:00.1", PF: "0000:86:00.0", Index: 0, GUID: ib.GUIDFromUint64(0x0200000000000001),
		PFGUID: ib.GUIDFromUint64(0x0000000000000007), Adopted: true}
	if err := l.PutVF(vf); err != nil {
		t.Fatal(err)
	}
	vfs, err := l.VFs()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]VF{vf}, vfs); diff != "" {
		t.Error(diff)
	}
	r := Release{PodUID: "u", Sandbox: "c", Interface: "eth0", Since: time.Unix(1, 0).UTC()}
	if err := l.PutRelease(r); err != nil {
		t.Fatal(err)
	}
	rs, err := l.Releases()
	if diff := cmp.Diff([]Release{r}, rs); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, given := range [][2]string{{"uverbs3", "umad5"}, {"uverbs3", ""}, {"", ""}} {
		if err := l.PutVerbs("0000:AF:00.1", given[0], given[1]); err != nil {
			t.Fatal(err)
		}
		if name, umad, err := l.Verbs("0000:af:00.1"); name != given[0] || umad != given[1] || err != nil {
			t.Errorf("Verbs = %q, %q, %v; want %q", name, umad, err, given)
		}
	}
	if err := errors.Join(l.DeleteRelease(r), l.DeleteRelease(r), l.DeleteVF(vf.PCI)); err != nil {
		t.Error(err)
	}
	rs, _ = l.Releases()
	vfs, _ = l.VFs()
	if len(rs)+len(vfs) != 0 {
		t.Errorf("left: %v %v", rs, vfs)
	}
}

// A file damaged anywhere is set aside whole or costs single records; the ledger opens and works.
func TestDamagedFile(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good")
	l := open(t, good)
	for _, id := range []string{"a", "b", "c"} {
		if err := l.UpdateSandbox(id, func(s *Sandbox) error {
			s.Attachments = append(s.Attachments, Attachment{Network: "n", IfName: "eth0"})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize() // 64 KiB on some arm64 kernels
	for name, bad := range map[string][]byte{
		"text":         []byte("not a database at all"),
		"empty page":   make([]byte, page),
		"half":         content[:len(content)/2],
		"three pages":  content[:3*page],
		"one byte":     content[:1],
		"zeroed tail":  append(append([]byte(nil), content[:2*page]...), make([]byte, len(content)-2*page)...),
		"random bytes": scramble(content),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "l")
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			l, damage, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if damage == nil {
				t.Fatal("no damage reported")
			}
			kept, err := os.ReadFile(damage.File)
			if err != nil || !cmp.Equal(kept, bad) {
				t.Errorf("the damaged file was not kept as it was: %v", err)
			}
			if err := l.PutVF(VF{PCI: "0000:86:00.1"}); err != nil {
				t.Errorf("the new ledger does not work: %v", err)
			}
		})
	}
}

// A ledger is as its first kernel's pages are, which have 4, 16 or 64 KiB on arm64; the next
// kernel's may have another size. bbolt writes the size into the file, and reads it before anything
// else.
func TestPageSizes(t *testing.T) {
	for _, size := range []int{4 << 10, 16 << 10, 64 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "l")
			db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: size})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(makeBuckets(db), db.Close()); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				l, damage, err := Open(path)
				if err != nil || damage != nil {
					t.Fatalf("opening for the %d. time: %v, %v", i+1, damage, err)
				}
				if got := l.db.Info().PageSize; got != size {
					t.Errorf("the file has pages of %d octets, want %d as it was made", got, size)
				}
				if got := len(l.Sandboxes()); got != 40*i {
					t.Errorf("%d records, want %d", got, 40*i)
				}
				for k := range 40 { // more than the file has room for at first
					if err := l.UpdateSandbox(fmt.Sprint(i, "-", k), func(s *Sandbox) error {
						s.Attachments = append(s.Attachments, Attachment{Network: strings.Repeat("n", 2000),
							IfName: "eth0"})
						return nil
					}); err != nil {
						t.Fatal(err)
					}
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func scramble(content []byte) []byte {
	out := append([]byte(nil), content...)
	for i := 2 * os.Getpagesize(); i < len(out); i += 7 {
		out[i] ^= 0x5a
	}
	return out
}

func TestDamagedRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	l := open(t, path)
	raw := func(key, value string) {
		t.Helper()
		if err := l.db.Update(func(tx *bolt.Tx) error {
			return tx.Bucket(bucketSandboxes).Put([]byte(key),
				[]byte(value))
		}); err != nil {
			t.Fatal(err)
		}
	}
	raw("bad", `{"v":1,"data":{"containerID":7}}`)
	raw("good", `{"v":1,"data":{"containerID":"good","attachments":[{"network":"n"}]}}`)
	l.Close()
	l, damage, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if damage == nil || !cmp.Equal(damage.Records, []string{"sandboxes/bad"}) || damage.File != "" {
		t.Errorf("damage = %+v", damage)
	}
	if all := l.Sandboxes(); len(all) != 1 {
		t.Errorf("Sandboxes = %v", all)
	}
	raw("good", `{"v":99,"data":{}}`)
	l.Close()
	if _, _, err := Open(path); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer record: err = %v", err)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	defer func(old time.Duration) { lockTimeout = old }(lockTimeout)
	lockTimeout = 50 * time.Millisecond
	path := filepath.Join(t.TempDir(), "l")
	open(t, path)
	if _, _, err := Open(path); err == nil {
		t.Error("opened twice")
	}
}

// The ledger against a map: any order of updates gives the same records, also after reopening.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "ledger")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "l")
		l, _, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { l.Close() }()
		l.db.NoSync = true // speed; durability is not what this test is about
		model := map[string]map[string]bool{}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			id := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "id")
			net := rapid.SampledFrom([]string{"n", "m"}).Draw(t, "net")
			if model[id] == nil {
				model[id] = map[string]bool{}
			}
			add := rapid.Bool().Draw(t, "add")
			model[id][net] = add
			err := l.UpdateSandbox(id, func(s *Sandbox) error {
				s.Remove(net, "eth0")
				if add {
					s.Attachments = append(s.Attachments, Attachment{Network: net, IfName: "eth0"})
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "reopen") {
				l.Close()
				if l, _, err = Open(path); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := l.Sandboxes()
		l.Close()
		if l, _, err = Open(path); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, l.Sandboxes(), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("on disk is another thing than what was read (-read +disk): %s", diff)
		}
		for id, nets := range model {
			s, _ := l.Sandbox(id)
			for net, want := range nets {
				if got := s.Attachment(net, "eth0") != nil; got != want {
					t.Fatalf("%s/%s: got %v, want %v", id, net, got, want)
				}
			}
		}
	})
}

func TestHandOuts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	l := open(t, path)
	given := HandOut{Lease: "v4.10-0-0-1", LeaseUID: "u", Pool: "v4", IP: "10.0.0.1",
		Pod:       Pod{Namespace: "d", Name: "p", UID: "1"},
		Interface: "eth0", Sandbox: "s", Since: time.Unix(5, 0).UTC()}
	if err := l.PutHandOut(given); err != nil {
		t.Fatal(err)
	}
	id := l.ID()
	l.Close()
	l = open(t, path)
	if l.ID() != id || id == "" {
		t.Errorf("the ledger's identity is %q after it was %q", l.ID(), id)
	}
	if err := l.DeleteHandOut(given.Lease, "another pod"); err != nil {
		t.Fatal(err)
	}
	got, err := l.HandOuts()
	if diff := cmp.Diff([]HandOut{given}, got); diff != "" || err != nil {
		t.Fatal(err, diff)
	}
	if err := errors.Join(l.DeleteHandOut(given.Lease, "1"), l.DeleteHandOut(given.Lease, "1")); err != nil {
		t.Fatal(err)
	}
	if got, err := l.HandOuts(); len(got) > 0 || err != nil {
		t.Errorf("left: %v, %v", got, err)
	}
	if other := open(t, filepath.Join(t.TempDir(), "l")); other.ID() == id {
		t.Error("two ledgers have one identity")
	}
}

// Calls at the same time share transactions: each is on disk when it returns, and one that fails
// harms no other.
func TestSharedTransactions(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "l"))
	const calls = 200
	errs := make([]error, calls)
	var all sync.WaitGroup
	for i := range calls {
		all.Go(func() {
			id := fmt.Sprint("sandbox-", i)
			errs[i] = l.UpdateSandbox(id, func(s *Sandbox) error {
				s.Attachments = append(s.Attachments, Attachment{Network: "n", IfName: "eth0"})
				if i%10 == 0 {
					return fmt.Errorf("refused %d", i)
				}
				return nil
			})
			if _, ok := l.Sandbox(id); ok == (i%10 == 0) {
				t.Errorf("%s: there %t", id, ok)
			}
		})
	}
	all.Wait()
	for i, err := range errs {
		if i%10 == 0 && (err == nil || err.Error() != fmt.Sprintf("refused %d", i)) || i%10 != 0 && err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

// BenchmarkPutHandOut is what recording a hand-out costs: one write to the disk, alone and in company.
func BenchmarkPutHandOut(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(callers, "-callers"), func(b *testing.B) {
			l, _, err := Open(filepath.Join(b.TempDir(), "l"))
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			b.SetParallelism((callers + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
			var n atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					lease := fmt.Sprint("v4.10-0-0-", n.Add(1)%256)
					if err := l.PutHandOut(HandOut{Lease: lease, Pod: Pod{UID: "1"}}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// What a reader, or the writer afterwards, does to a record is its own business.
func TestReadersShareNothing(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "l"))
	var written *Sandbox
	change := func(s *Sandbox) error {
		written = s
		s.Attachments = append(s.Attachments, Attachment{Network: "n", IfName: "eth0", BinDirs: []string{"/a"},
			State:  map[string]json.RawMessage{"p": json.RawMessage("1")},
			Direct: []DirectCall{{Plugin: "p"}}})
		return nil
	}
	if err := l.UpdateSandbox("c", change); err != nil {
		t.Fatal(err)
	}
	text := func() string {
		s, _ := l.Sandbox("c")
		out, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	want := text()
	one, _ := l.Sandbox("c")
	for _, s := range append(l.Sandboxes(), one, *written) {
		a := &s.Attachments[0]
		a.IfName, a.BinDirs[0], a.Direct[0].Plugin, a.State["q"] = "x", "/x", "x", json.RawMessage("2")
	}
	if diff := cmp.Diff(want, text()); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkUpdateSandbox(b *testing.B) {
	for _, others := range []int{0, 100} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			l, _, err := Open(filepath.Join(b.TempDir(), "l"))
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			config := json.RawMessage(`{"text":"` + strings.Repeat("x", 1000) + `"}`)
			write := func(id string) {
				err := l.UpdateSandbox(id, func(s *Sandbox) error {
					s.Attachments = []Attachment{{Network: "n", IfName: "eth0", Config: config, Result: config,
						State: map[string]json.RawMessage{"p": config}}}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			for i := range others {
				write(fmt.Sprint("other-", i))
			}
			for b.Loop() {
				write("c")
			}
		})
	}
}

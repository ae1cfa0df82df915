// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"fmt"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Sandbox returns one sandbox; ok is false when it is not known.
func (l *Ledger) Sandbox(containerID string) (s Sandbox, ok bool) {
	return l.sandboxes.get(containerID)
}

// Sandboxes returns all of them, in order of container ID.
func (l *Ledger) Sandboxes() []Sandbox { return l.sandboxes.list() }

// SandboxesOf returns the container IDs of a pod's sandboxes.
func (l *Ledger) SandboxesOf(podUID string) []string {
	var ids []string
	for _, s := range l.Sandboxes() {
		if s.Pod.UID == podUID {
			ids = append(ids, s.ContainerID)
		}
	}
	return ids
}

// UpdateSandbox changes one sandbox in one transaction: fn gets the present record, or an empty one
// with the container ID and the present time. When fn fails nothing is written. When no attachment
// is left the record is removed. fn may run more than once, each time with the record as it is
// then, and must change nothing else.
func (l *Ledger) UpdateSandbox(containerID string, fn func(*Sandbox) error) error {
	if containerID == "" {
		return fmt.Errorf("record a sandbox: no container ID")
	}
	return l.update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketSandboxes)
		s := Sandbox{ContainerID: containerID, Created: time.Now().UTC().Round(0)}
		if v := b.Get([]byte(containerID)); v != nil {
			if err := decode(v, &s); err != nil {
				return err
			}
		}
		if err := fn(&s); err != nil {
			return err
		}
		tx.OnCommit(func() { l.sandboxes.set(s) })
		if len(s.Attachments) == 0 {
			return b.Delete([]byte(containerID))
		}
		return put(b, containerID, s)
	})
}

// DevicesInUse maps the PCI address of every device that an attachment holds, in whatever phase, to its pod.
func (l *Ledger) DevicesInUse() map[string]Pod {
	used := map[string]Pod{}
	for _, s := range l.Sandboxes() {
		for _, a := range s.Attachments {
			if a.DeviceID != "" {
				used[strings.ToLower(a.DeviceID)] = s.Pod
			}
		}
	}
	return used
}

// PutVF records the identity of a VF; it replaces what was recorded for the PCI address.
func (l *Ledger) PutVF(vf VF) error { return l.set(bucketVFs, strings.ToLower(vf.PCI), vf) }

// VFs returns all identities, in order of PCI address.
func (l *Ledger) VFs() ([]VF, error) { return list[VF](l.db, bucketVFs) }

// DeleteVF forgets a VF.
func (l *Ledger) DeleteVF(pci string) error { return l.delete(bucketVFs, strings.ToLower(pci)) }

// PutVerbs records the verbs and management devices that a container was given with a VF; without a
// verbs device it forgets.
func (l *Ledger) PutVerbs(pci, name, umad string) error {
	pci = strings.ToLower(pci)
	if name == "" {
		return l.delete(bucketVerbs, pci)
	}
	return l.set(bucketVerbs, pci, Verbs{PCI: pci, Name: name, Umad: umad})
}

// Verbs returns the verbs and management devices that a container was given last with a VF; "" when
// none is known.
func (l *Ledger) Verbs(pci string) (name, umad string, err error) {
	var v Verbs
	_, err = get(l.db, bucketVerbs, strings.ToLower(pci), &v)
	return v.Name, v.Umad, err
}

// PutRelease records an address that has still to be given back.
func (l *Ledger) PutRelease(r Release) error {
	if r.Since.IsZero() {
		r.Since = time.Now().UTC()
	}
	return l.set(bucketReleases, r.key(), r)
}

// Releases returns the addresses that have still to be given back.
func (l *Ledger) Releases() ([]Release, error) { return list[Release](l.db, bucketReleases) }

// DeleteRelease forgets one after it was given back.
func (l *Ledger) DeleteRelease(r Release) error { return l.delete(bucketReleases, r.key()) }

// PutHandOut records that an address of the stock was given to a pod.
func (l *Ledger) PutHandOut(h HandOut) error {
	if h.Since.IsZero() {
		h.Since = time.Now().UTC()
	}
	return l.set(bucketHandOuts, h.Lease, h)
}

// HandOuts returns the addresses that pods have and the API server may not show yet.
func (l *Ledger) HandOuts() ([]HandOut, error) { return list[HandOut](l.db, bucketHandOuts) }

// DeleteHandOut forgets a hand-out of the lease to the pod; one to another pod stays.
func (l *Ledger) DeleteHandOut(lease, podUID string) error {
	return l.update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketHandOuts)
		v := b.Get([]byte(lease))
		if v == nil {
			return nil
		}
		var h HandOut
		if err := decode(v, &h); err != nil {
			return err
		}
		if h.Pod.UID != podUID {
			return nil
		}
		return b.Delete([]byte(lease))
	})
}

func (l *Ledger) set(bucket []byte, key string, v any) error {
	if key == "" {
		return fmt.Errorf("record in %s: empty key", bucket)
	}
	return l.update(func(tx *bolt.Tx) error { return put(tx.Bucket(bucket), key, v) })
}

func (l *Ledger) delete(bucket []byte, key string) error {
	return l.update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Delete([]byte(key)) })
}

func put(b *bolt.Bucket, key string, v any) error {
	value, err := encode(v)
	if err != nil {
		return err
	}
	return b.Put([]byte(key), value)
}

func get(db *bolt.DB, bucket []byte, key string, into any) (ok bool, err error) {
	err = db.View(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucket).Get([]byte(key))
		ok = v != nil
		if !ok {
			return nil
		}
		return decode(v, into)
	})
	return ok, err
}

func list[T any](db *bolt.DB, bucket []byte) ([]T, error) {
	var all []T
	err := db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucket).ForEach(func(k, v []byte) error {
			var one T
			if err := decode(v, &one); err != nil {
				return fmt.Errorf("%s/%s: %w", bucket, k, err)
			}
			all = append(all, one)
			return nil
		})
	})
	return all, err
}

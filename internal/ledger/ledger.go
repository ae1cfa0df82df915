// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// version is the number of the record format; it rises only when an older agent could not read a record.
const version = 1

// Buckets of the file.
var (
	bucketSandboxes = []byte("sandboxes") // container ID -> Sandbox
	bucketReleases  = []byte("releases")  // Release.key -> Release
	bucketVFs       = []byte("vfs")       // PCI address -> VF
	bucketVerbs     = []byte("verbs")     // PCI address -> Verbs
	bucketHandOuts  = []byte("handouts")  // name of a SpiderIPLease -> HandOut
	bucketSelf      = []byte("self")      // keyID -> who this file is
	bucketDamaged   = []byte("damaged")   // bucket/key -> value that could not be read, kept for a person to look at
	liveBuckets     = [][]byte{bucketSandboxes, bucketReleases, bucketVFs, bucketVerbs, bucketHandOuts}
)

// keyID holds the file's identity in bucketSelf.
var keyID = []byte("id")

// lockTimeout bounds the wait for the file's lock: the agent before this one may be ending.
var lockTimeout = 10 * time.Second // a variable for the test

// ErrNewer: the file was written by a later version whose records cannot be read.
var ErrNewer = errors.New("the ledger was written by a newer version")

// ErrHeld: another process has the file open.
var ErrHeld = errors.New("another process holds it: is a second agent running on this node?")

// Damage says what could not be read when a ledger was opened. The ledger works on without it;
// sandboxes that it named have to be found again from the kernel's side.
type Damage struct {
	// File is where the whole unreadable file was put; "" when only single records were unreadable.
	File string
	// Records are the "bucket/key" of single unreadable records, kept inside the file.
	Records []string
	// Err is the first fault met.
	Err error
}

// String is one line for the log.
func (d *Damage) String() string {
	if d.File != "" {
		return fmt.Sprintf("the ledger could not be read and was set aside as %s (%v); started with an empty one",
			d.File, d.Err)
	}
	return fmt.Sprintf("%d ledger records could not be read and were set aside (%v): %s", len(d.Records), d.Err,
		strings.Join(d.Records, ", "))
}

// Ledger is an open ledger file. All methods are safe for concurrent use.
type Ledger struct {
	db *bolt.DB
	id string

	commits   commits
	sandboxes sandboxes
}

// Open opens or makes the ledger at path. An unreadable file is set aside, never deleted, and
// reported as Damage beside a ledger that works. The error is for what needs a person: no
// permission, no space, another process has it, ErrNewer.
func Open(path string) (*Ledger, *Damage, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, fmt.Errorf("make the ledger's directory: %w", err)
	}
	db, err := openChecked(path)
	var damage *Damage
	if errors.Is(err, errDamaged) {
		if damage, err = setAside(path, err); err != nil {
			return nil, nil, err
		}
		db, err = openChecked(path)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open the ledger %s: %w", path, err)
	}
	l := &Ledger{db: db}
	if l.id, err = identity(db); err != nil {
		db.Close()
		return nil, nil, fmt.Errorf("open the ledger %s: %w", path, err)
	}
	if damage == nil {
		damage, err = l.quarantine()
	}
	if err == nil {
		err = l.sandboxes.load(db)
	}
	if err != nil {
		db.Close()
		return nil, nil, fmt.Errorf("open the ledger %s: %w", path, err)
	}
	return l, damage, nil
}

// ID is the file's identity, given when it was made. A ledger that was lost, or set aside as
// damaged, comes back with another one, so that what was noted outside with the old one is not
// taken for something this ledger knows about.
func (l *Ledger) ID() string { return l.id }

// identity reads the file's identity and gives it one when it is new.
func identity(db *bolt.DB) (id string, err error) {
	err = db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketSelf)
		if id = string(b.Get(keyID)); id != "" {
			return nil
		}
		id = rand.Text()
		return b.Put(keyID, []byte(id))
	})
	return id, err
}

// Close releases the file.
func (l *Ledger) Close() error { return l.db.Close() }

var errDamaged = errors.New("damaged file")

// openChecked opens the file and walks every page, so that damage shows now and not in the middle
// of an attachment. bbolt panics on some kinds of damage and a file cut short faults in its memory
// map; both become errDamaged.
func openChecked(path string) (db *bolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			db, err = nil, fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, ErrHeld
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum),
		errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	case err != nil && strings.Contains(err.Error(), "file size too small"): // bbolt has no value for it
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	case err != nil:
		return nil, err
	}
	if err := walk(db); err != nil {
		db.Close()
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return db, makeBuckets(db)
}

func walk(db *bolt.DB) error {
	return db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			return b.ForEach(func(_, v []byte) error {
				_ = append([]byte(nil), v...) // touches the page
				return nil
			})
		})
	})
}

func makeBuckets(db *bolt.DB) error {
	return db.Update(func(tx *bolt.Tx) error {
		for _, b := range append(slices.Clone(liveBuckets), bucketDamaged, bucketSelf) {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return fmt.Errorf("make bucket %s: %w", b, err)
			}
		}
		return nil
	})
}

func setAside(path string, cause error) (*Damage, error) {
	aside := fmt.Sprintf("%s.damaged-%s", path, time.Now().UTC().Format("20060102T150405.000000000"))
	if err := os.Rename(path, aside); err != nil {
		return nil, fmt.Errorf("set the damaged ledger %s aside: %w", path, err)
	}
	return &Damage{File: aside, Err: cause}, nil
}

// quarantine moves records that do not decode out of the way; records of a newer version refuse the
// whole file.
func (l *Ledger) quarantine() (*Damage, error) {
	var damage *Damage
	err := l.db.Update(func(tx *bolt.Tx) error {
		for _, bucket := range liveBuckets {
			bad, first, err := unreadable(tx.Bucket(bucket), bucket)
			if err != nil {
				return err
			}
			for _, key := range bad {
				if err := moveAside(tx, bucket, []byte(key)); err != nil {
					return err
				}
				if damage == nil {
					damage = &Damage{Err: first}
				}
				damage.Records = append(damage.Records, string(bucket)+"/"+key)
			}
		}
		return nil
	})
	return damage, err
}

func unreadable(b *bolt.Bucket, name []byte) (keys []string, first error, err error) {
	err = b.ForEach(func(k, v []byte) error {
		e := decodeAny(name, v)
		if errors.Is(e, ErrNewer) {
			return e
		}
		if e != nil {
			keys = append(keys, string(k))
			if first == nil {
				first = e
			}
		}
		return nil
	})
	return keys, first, err
}

func decodeAny(bucket, value []byte) error {
	switch string(bucket) {
	case string(bucketSandboxes):
		return decode(value, &Sandbox{})
	case string(bucketReleases):
		return decode(value, &Release{})
	case string(bucketVerbs):
		return decode(value, &Verbs{})
	case string(bucketHandOuts):
		return decode(value, &HandOut{})
	default:
		return decode(value, &VF{})
	}
}

func moveAside(tx *bolt.Tx, bucket, key []byte) error {
	b := tx.Bucket(bucket)
	if err := tx.Bucket(bucketDamaged).Put([]byte(string(bucket)+"/"+string(key)),
		slices.Clone(b.Get(key))); err != nil {
		return err
	}
	return b.Delete(key)
}

// envelope is the shape of every value in the file.
type envelope struct {
	Version int             `json:"v"`
	Data    json.RawMessage `json:"data"`
}

func encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode a ledger record: %w", err)
	}
	// as json.Marshal would, which reads the data once more
	return fmt.Appendf(nil, `{"v":%d,"data":%s}`, version, data), nil
}

func decode(value []byte, into any) error {
	var e envelope
	if err := json.Unmarshal(value, &e); err != nil {
		return fmt.Errorf("decode a ledger record: %w", err)
	}
	if e.Version > version {
		return fmt.Errorf(
			"%w: record format %d, this agent reads up to %d; run the newer version again, or drain the node and "+
				"delete the file",
			ErrNewer, e.Version, version)
	}
	if e.Version < 1 || e.Data == nil || string(e.Data) == "null" {
		return fmt.Errorf("decode a ledger record: no version or no record in it")
	}
	if err := json.Unmarshal(e.Data, into); err != nil {
		return fmt.Errorf("decode a ledger record: %w", err)
	}
	return nil
}

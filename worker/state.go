package worker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"swarm/internal/disk"
	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Buckets of state.db.
var (
	bucketMeta     = []byte("meta")     // "cluster", "epoch", "index", "began"
	bucketObject   = []byte("object")   // kind and id -> Assignment
	bucketStatus   = []byte("status")   // task id -> TaskStatus
	bucketUnsent   = []byte("unsent")   // task id -> nothing: its status is not acknowledged
	bucketAttached = []byte("attached") // task id -> Attached as JSON
	bucketCleaned  = []byte("cleaned")  // task id -> nothing: it has ended, and nothing of it is left
	bucketUsed     = []byte("used")     // digest of an image -> when it was seen to be used, Unix seconds
)

const stateFile = "state.db"

// state is the worker's memory across restarts. Writes gather in memory and are committed by run, as many as there are
// in one transaction, so that no task waits for a disk. What a crash loses is a suffix of the writes, and nothing
// depends on it: managers send assignments again, an unacknowledged status is computed again from the container, and a
// container that the file does not know is adopted by its task id, or removed once the managers disown it.
type state struct {
	db  *bolt.DB
	log *slog.Logger

	size int64 // of the file when room was last kept for it; run's

	mu    sync.Mutex // guards dirty
	dirty map[stateKey][]byte
	wake  chan struct{} // one token: dirty is not empty
}

type stateKey struct {
	bucket string
	key    string
}

// remembered is what a former process has left.
type remembered struct {
	epoch, index uint64
	objects      []*swarmv1.Assignment
	statuses     map[string]*swarmv1.TaskStatus
	unsent       map[string]bool
	attached     map[string]engine.Attached
	cleaned      map[string]bool
	used         map[string]time.Time
	began        time.Time // zero: now
}

// openState opens the file and reads it. What belongs to another cluster is dropped.
func openState(dir, cluster string, log *slog.Logger) (*state, *remembered, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("open worker state: %w", err)
	}
	path := filepath.Join(dir, stateFile)
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, nil, fmt.Errorf("open worker state %s: %w", path, err)
	}
	s := &state{db: db, log: log, dirty: map[stateKey][]byte{}, wake: make(chan struct{}, 1)}
	if err := db.Update(func(tx *bolt.Tx) error { return prepareBuckets(tx, cluster) }); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open worker state %s: %w", path, err), db.Close())
	}
	mem, err := s.load()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read worker state %s: %w", path, err), db.Close())
	}
	return s, mem, nil
}

func prepareBuckets(tx *bolt.Tx, cluster string) error {
	if meta := tx.Bucket(bucketMeta); meta != nil && string(meta.Get([]byte("cluster"))) != cluster {
		for _, b := range [][]byte{bucketMeta, bucketObject, bucketStatus, bucketUnsent, bucketAttached, bucketCleaned, bucketUsed} {
			if err := tx.DeleteBucket(b); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
				return err
			}
		}
	}
	for _, b := range [][]byte{bucketMeta, bucketObject, bucketStatus, bucketUnsent, bucketAttached, bucketCleaned, bucketUsed} {
		if _, err := tx.CreateBucketIfNotExists(b); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketMeta).Put([]byte("cluster"), []byte(cluster))
}

func (s *state) load() (*remembered, error) {
	mem := &remembered{statuses: map[string]*swarmv1.TaskStatus{}, unsent: map[string]bool{}, attached: map[string]engine.Attached{}, cleaned: map[string]bool{}, used: map[string]time.Time{}}
	err := s.db.View(func(tx *bolt.Tx) error {
		mem.epoch, mem.index = number(tx.Bucket(bucketMeta).Get([]byte("epoch"))), number(tx.Bucket(bucketMeta).Get([]byte("index")))
		if began := number(tx.Bucket(bucketMeta).Get([]byte("began"))); began > 0 {
			mem.began = time.Unix(int64(began), 0)
		}
		return errors.Join(
			tx.Bucket(bucketObject).ForEach(func(_, v []byte) error {
				a := &swarmv1.Assignment{}
				mem.objects = append(mem.objects, a)
				return a.UnmarshalVT(v)
			}),
			tx.Bucket(bucketStatus).ForEach(func(k, v []byte) error {
				status := &swarmv1.TaskStatus{}
				mem.statuses[string(k)] = status
				return status.UnmarshalVT(v)
			}),
			tx.Bucket(bucketUnsent).ForEach(func(k, _ []byte) error {
				mem.unsent[string(k)] = true
				return nil
			}),
			tx.Bucket(bucketCleaned).ForEach(func(k, _ []byte) error {
				mem.cleaned[string(k)] = true
				return nil
			}),
			tx.Bucket(bucketUsed).ForEach(func(k, v []byte) error {
				mem.used[string(k)] = time.Unix(int64(number(v)), 0)
				return nil
			}),
			tx.Bucket(bucketAttached).ForEach(func(k, v []byte) error {
				var a engine.Attached
				err := json.Unmarshal(v, &a)
				mem.attached[string(k)] = a
				return err
			}),
		)
	})
	return mem, err
}

func number(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// set notes a value to be written, nil: to be deleted.
func (s *state) set(bucket []byte, key string, value []byte) {
	s.mu.Lock()
	s.dirty[stateKey{string(bucket), key}] = value
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *state) setNumber(key string, n uint64) {
	s.set(bucketMeta, key, binary.BigEndian.AppendUint64(nil, n))
}

func (s *state) setTime(bucket []byte, key string, at time.Time) {
	s.set(bucket, key, binary.BigEndian.AppendUint64(nil, uint64(at.Unix())))
}

// run writes until ctx ends, and then what is left.
func (s *state) run(ctx context.Context) error {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return s.flush()
		}
		for try := 0; ; try++ {
			err := s.flush()
			if err == nil {
				s.keepRoom()
				break
			}
			s.log.Error("write worker state", "err", err)
			if pause.For(ctx, backoff(try, 100*time.Millisecond, 5*time.Second)) != nil {
				return s.flush()
			}
		}
	}
}

// stateAhead is what the file can grow by when the disk is full: some ten thousand tasks.
const stateAhead = 4 << 20

// keepRoom has the file grow also when the disk is full. Without room now, the next write asks again.
func (s *state) keepRoom() {
	st, err := os.Stat(s.db.Path())
	if err == nil && st.Size() != s.size && disk.Ahead(s.db.Path(), stateAhead) == nil {
		s.size = st.Size()
	}
}

// flush commits everything noted so far, in one transaction.
func (s *state) flush() error {
	s.mu.Lock()
	batch := s.dirty
	s.dirty = map[stateKey][]byte{}
	s.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	err := s.db.Update(func(tx *bolt.Tx) error {
		for k, v := range batch {
			b := tx.Bucket([]byte(k.bucket))
			var err error
			if v == nil {
				err = b.Delete([]byte(k.key))
			} else {
				err = b.Put([]byte(k.key), v)
			}
			if err != nil {
				return fmt.Errorf("write %s %s: %w", k.bucket, k.key, err)
			}
		}
		return nil
	})
	if err != nil {
		s.mu.Lock()
		for k, v := range batch {
			if _, newer := s.dirty[k]; !newer {
				s.dirty[k] = v
			}
		}
		s.mu.Unlock()
	}
	return err
}

func (s *state) close() error { return s.db.Close() }

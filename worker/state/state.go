package state

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
	"swarm/worker/retry"
)

// Buckets of state.db.
var (
	bucketMeta     = []byte("meta")     // "cluster", "epoch", "index", "began"
	bucketObject   = []byte("object")   // kind and id -> Assignment
	bucketStatus   = []byte("status")   // task id -> TaskStatus
	bucketUnsent   = []byte("unsent")   // task ids whose status is not acknowledged
	bucketAttached = []byte("attached") // task id -> Attached as JSON
	bucketCleaned  = []byte("cleaned")  // ids of tasks that have ended and of which nothing is left
	bucketUsed     = []byte("used")     // digest of an image -> when it was last seen in use, Unix seconds
)

const stateFile = "state.db"

// DB is the open file. Its Set and Forget methods put a write into memory and return without
// waiting for the disk. Run commits these writes. All methods may be called concurrently.
type DB struct {
	db  *bolt.DB
	log *slog.Logger

	size int64 // of the file when space was last reserved for it; only Run uses it

	mu    sync.Mutex          // guards dirty
	dirty map[stateKey][]byte // writes that are not committed; nil: delete the key
	wake  chan struct{}       // one token: dirty is not empty
}

type stateKey struct {
	bucket string
	key    string
}

// Saved is the content of the file when it was opened: what an earlier process of this node left.
type Saved struct {
	// Epoch of the cluster and Index of the store are the newest that this node has applied.
	Epoch, Index uint64
	// Objects are the assigned objects, without secrets, keys and registry credentials.
	Objects []*swarmv1.Assignment
	// Statuses has the last status of each task, by task id.
	Statuses map[string]*swarmv1.TaskStatus
	// Unsent has the tasks whose last status no manager has acknowledged.
	Unsent map[string]bool
	// Attached has the network attachment of each task, by task id.
	Attached map[string]engine.Attached
	// Cleaned has the tasks that have ended and of which no container, attachment or file is left.
	Cleaned map[string]bool
	// Used says when an image was last seen in use, by digest, to the second.
	Used map[string]time.Time
	// Began is when this node began to record which images are in use. Zero: it has not begun.
	Began time.Time
}

// Open opens state.db in dir, creates it if necessary, and reads it. The content is dropped if it
// belongs to another cluster. Open fails if another process has the file open for longer than 1 s.
func Open(dir, cluster string, log *slog.Logger) (*DB, *Saved, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("open worker state: %w", err)
	}
	path := filepath.Join(dir, stateFile)
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, nil, fmt.Errorf("open worker state %s: %w", path, err)
	}
	s := &DB{db: db, log: log, dirty: map[stateKey][]byte{}, wake: make(chan struct{}, 1)}
	if err := db.Update(func(tx *bolt.Tx) error { return prepareBuckets(tx, cluster) }); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open worker state %s: %w", path, err), db.Close())
	}
	saved, err := s.load()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read worker state %s: %w", path, err), db.Close())
	}
	return s, saved, nil
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

func (s *DB) load() (*Saved, error) {
	saved := &Saved{
		Statuses: map[string]*swarmv1.TaskStatus{}, Unsent: map[string]bool{}, Attached: map[string]engine.Attached{},
		Cleaned: map[string]bool{}, Used: map[string]time.Time{},
	}
	err := s.db.View(func(tx *bolt.Tx) error {
		saved.Epoch, saved.Index = number(tx.Bucket(bucketMeta).Get([]byte("epoch"))), number(tx.Bucket(bucketMeta).Get([]byte("index")))
		if began := number(tx.Bucket(bucketMeta).Get([]byte("began"))); began > 0 {
			saved.Began = time.Unix(int64(began), 0)
		}
		return errors.Join(
			tx.Bucket(bucketObject).ForEach(func(_, v []byte) error {
				a := &swarmv1.Assignment{}
				saved.Objects = append(saved.Objects, a)
				return a.UnmarshalVT(v)
			}),
			tx.Bucket(bucketStatus).ForEach(func(k, v []byte) error {
				status := &swarmv1.TaskStatus{}
				saved.Statuses[string(k)] = status
				return status.UnmarshalVT(v)
			}),
			tx.Bucket(bucketUnsent).ForEach(func(k, _ []byte) error {
				saved.Unsent[string(k)] = true
				return nil
			}),
			tx.Bucket(bucketCleaned).ForEach(func(k, _ []byte) error {
				saved.Cleaned[string(k)] = true
				return nil
			}),
			tx.Bucket(bucketUsed).ForEach(func(k, v []byte) error {
				saved.Used[string(k)] = time.Unix(int64(number(v)), 0)
				return nil
			}),
			tx.Bucket(bucketAttached).ForEach(func(k, v []byte) error {
				var a engine.Attached
				err := json.Unmarshal(v, &a)
				saved.Attached[string(k)] = a
				return err
			}),
		)
	})
	return saved, err
}

func number(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// set puts a write into memory, to be committed by Run. A nil value deletes the key.
func (s *DB) set(bucket []byte, key string, value []byte) {
	s.mu.Lock()
	s.dirty[stateKey{string(bucket), key}] = value
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// SetEpoch stores the cluster epoch whose state this node has applied.
func (s *DB) SetEpoch(epoch uint64) { s.setNumber("epoch", epoch) }

// SetIndex stores the newest index of the managers' store that this node has applied.
func (s *DB) SetIndex(index uint64) { s.setNumber("index", index) }

// SetBegan stores when this node began to record which images are in use.
func (s *DB) SetBegan(at time.Time) { s.setTime(bucketMeta, "began", at) }

// SetObject stores an assigned object under its key. A nil object deletes the entry.
func (s *DB) SetObject(key string, object *swarmv1.Assignment) {
	if object == nil {
		s.set(bucketObject, key, nil)
		return
	}
	s.set(bucketObject, key, marshal(object))
}

// SetStatus stores a task's last status, and that no manager has acknowledged it.
func (s *DB) SetStatus(status *swarmv1.TaskStatus) {
	s.set(bucketStatus, status.TaskId, marshal(status))
	s.set(bucketUnsent, status.TaskId, []byte{1})
}

// SetAcknowledged stores that a manager has acknowledged the task's last status.
func (s *DB) SetAcknowledged(taskID string) { s.set(bucketUnsent, taskID, nil) }

// SetAttached stores the task's network attachment. It fails only if the attachment cannot be
// encoded.
func (s *DB) SetAttached(taskID string, attached engine.Attached) error {
	value, err := json.Marshal(attached)
	if err != nil {
		return err
	}
	s.set(bucketAttached, taskID, value)
	return nil
}

// ForgetAttached deletes the task's network attachment.
func (s *DB) ForgetAttached(taskID string) { s.set(bucketAttached, taskID, nil) }

// SetCleaned stores that the task has ended and that nothing of it is left to remove.
func (s *DB) SetCleaned(taskID string) { s.set(bucketCleaned, taskID, []byte{1}) }

// ForgetTask deletes everything about a task except its assignment and its attachment.
func (s *DB) ForgetTask(taskID string) {
	s.set(bucketStatus, taskID, nil)
	s.set(bucketUnsent, taskID, nil)
	s.set(bucketCleaned, taskID, nil)
}

// SetImageUse stores when an image was last seen in use. The file keeps the time in whole seconds.
func (s *DB) SetImageUse(digest string, at time.Time) { s.setTime(bucketUsed, digest, at) }

// ForgetImage deletes the time at which an image was last seen in use.
func (s *DB) ForgetImage(digest string) { s.set(bucketUsed, digest, nil) }

func (s *DB) setNumber(key string, n uint64) {
	s.set(bucketMeta, key, binary.BigEndian.AppendUint64(nil, n))
}

func (s *DB) setTime(bucket []byte, key string, at time.Time) {
	s.set(bucket, key, binary.BigEndian.AppendUint64(nil, uint64(at.Unix())))
}

// Run commits writes until ctx ends, and then makes a last commit of the writes that are left. It
// repeats a commit that failed. It returns the error of the last commit only.
func (s *DB) Run(ctx context.Context) error {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return s.flush()
		}
		for try := 0; ; try++ {
			err := s.flush()
			if err == nil {
				s.reserve()
				break
			}
			s.log.Error("write worker state", "err", err)
			if pause.For(ctx, retry.Backoff(try, 100*time.Millisecond, 5*time.Second)) != nil {
				return s.flush()
			}
		}
	}
}

// reservedSpace is how many bytes the file can grow when the disk is full. They are enough for the
// state of about ten thousand tasks.
const reservedSpace = 4 << 20

// reserve allocates space after the end of the file, so that the file can grow when the disk is
// full. If the allocation fails, the next commit tries again.
func (s *DB) reserve() {
	st, err := os.Stat(s.db.Path())
	if err == nil && st.Size() != s.size && disk.ReserveBeyondEnd(s.db.Path(), reservedSpace) == nil {
		s.size = st.Size()
	}
}

// flush commits all writes in memory in one transaction. If the commit fails, it puts the writes
// back into memory, except those that newer writes have replaced.
func (s *DB) flush() error {
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

// Close closes the file. Call it after Run has returned.
func (s *DB) Close() error { return s.db.Close() }

// marshal encodes a message. It cannot fail: protobuf fails only on required fields, which swarm's
// messages do not have, and on invalid UTF-8, which vtproto does not check.
func marshal(m interface{ MarshalVT() ([]byte, error) }) []byte {
	b, err := m.MarshalVT()
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", m, err))
	}
	return b
}

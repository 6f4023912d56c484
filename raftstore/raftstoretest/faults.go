package raftstoretest

import (
	"bytes"
	"sync"

	"github.com/hashicorp/raft"

	"swarm/raftstore/logstore"
)

// Faults injects disk faults below a store's log: pass its Wrap as Deps.WrapDisk. The zero value
// injects none.
type Faults struct {
	mu     sync.Mutex // guards the rest
	write  error
	damage map[uint64]func([]byte) []byte
}

// Wrap returns a Disk that injects the faults into d.
func (f *Faults) Wrap(d logstore.Disk) logstore.Disk { return &faultyDisk{Disk: d, faults: f} }

// FailWrites makes every write fail with err, like a full disk or a failing fsync. A nil err ends
// that.
func (f *Faults) FailWrites(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.write = err
}

// Flip makes the entry at index read with one bit flipped in the middle.
func (f *Faults) Flip(index uint64) {
	f.set(index, func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 0x10
		return b
	})
}

// Tear makes the entry at index read as if only its first half were on disk.
func (f *Faults) Tear(index uint64) { f.set(index, func(b []byte) []byte { return b[:len(b)/2] }) }

func (f *Faults) set(index uint64, fn func([]byte) []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.damage == nil {
		f.damage = make(map[uint64]func([]byte) []byte)
	}
	f.damage[index] = fn
}

func (f *Faults) writeErr() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.write
}

type faultyDisk struct {
	logstore.Disk
	faults *Faults
}

func (d *faultyDisk) StoreLogs(logs []*raft.Log) error {
	if err := d.faults.writeErr(); err != nil {
		return err
	}
	return d.Disk.StoreLogs(logs)
}

func (d *faultyDisk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

func (d *faultyDisk) DeleteRange(from, to uint64) error {
	if err := d.faults.writeErr(); err != nil {
		return err
	}
	return d.Disk.DeleteRange(from, to)
}

func (d *faultyDisk) Set(key, val []byte) error {
	if err := d.faults.writeErr(); err != nil {
		return err
	}
	return d.Disk.Set(key, val)
}

func (d *faultyDisk) SetUint64(key []byte, val uint64) error {
	if err := d.faults.writeErr(); err != nil {
		return err
	}
	return d.Disk.SetUint64(key, val)
}

func (d *faultyDisk) GetLog(index uint64, l *raft.Log) error {
	if err := d.Disk.GetLog(index, l); err != nil {
		return err
	}
	d.faults.mu.Lock()
	defer d.faults.mu.Unlock()
	if fn := d.faults.damage[index]; fn != nil && len(l.Data) > 0 {
		l.Data = fn(l.Data)
	}
	return nil
}

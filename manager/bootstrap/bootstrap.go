// Package bootstrap keeps the first rows of a new cluster in a file until they are committed, so
// that a crash between `swarm init` and the commit loses nothing.
//
// Package manager/ca makes the rows. cmd/swarm calls this package when a manager starts. It has no
// goroutines.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"swarm/internal/durable"
	swarmv1 "swarm/proto/swarm/v1"
)

// Store is the part of raftstore.Store that this package uses.
type Store interface {
	Commit(ctx context.Context, actor string, changes ...*swarmv1.Change) (uint64, error)
}

// File is the path of the file.
type File string

// In returns the file in a manager's folder. Its name is founding.
func In(dir string) File { return File(filepath.Join(dir, "founding")) }

// Save writes the rows durably.
func (f File) Save(rows []*swarmv1.Change) error {
	data, err := (&swarmv1.Group{Changes: rows}).MarshalVT()
	if err != nil {
		return err
	}
	return durable.WriteFile(string(f), data, 0o600)
}

// Pending reports whether there are rows to commit. If there are, this manager bootstraps Raft.
func (f File) Pending() bool {
	_, err := os.Stat(string(f))
	return err == nil
}

// Commit commits the rows of the file and removes the file. It does nothing if there is no file. If
// ctx ends before the commit, it returns nil and leaves the file, so that the next start commits
// the rows. If the rows exist already, they were committed before a crash, and Commit only removes
// the file.
func (f File) Commit(ctx context.Context, store Store) error {
	data, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var rows swarmv1.Group
	if err := rows.UnmarshalVT(data); err != nil {
		return fmt.Errorf("%s is damaged: %w", f, err)
	}
	if _, err := store.Commit(ctx, "init", rows.Changes...); err != nil && !errdefs.IsAlreadyExists(err) {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("write the new cluster: %w", err)
	}
	return os.Remove(string(f))
}

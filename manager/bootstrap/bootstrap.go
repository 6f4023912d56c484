// Package bootstrap keeps the first rows of a new cluster in a file until they are committed, so
// that a crash between `swarm init` and the commit loses nothing.
//
// The package owns that file. It does not make the rows; package manager/ca does. cmd/swarm calls
// it when a manager starts. It has no goroutines.
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

// Store is the part of raftstore.Store that is used here.
type Store interface {
	Commit(ctx context.Context, reason string, changes ...*swarmv1.Change) (uint64, error)
}

// File is the path of the file.
type File string

// In returns the file in a manager's folder.
func In(dir string) File { return File(filepath.Join(dir, "founding")) }

// Save writes the rows durably.
func (f File) Save(rows []*swarmv1.Change) error {
	data, err := (&swarmv1.Group{Changes: rows}).MarshalVT()
	if err != nil {
		return err
	}
	return durable.WriteFile(string(f), data, 0o600)
}

// Pending reports whether there are rows to commit. The manager that has them bootstraps Raft.
func (f File) Pending() bool {
	_, err := os.Stat(string(f))
	return err == nil
}

// Commit commits the rows, if there are any, and removes the file. It returns nil if ctx ends
// before: the rows are committed after the next start. Rows that exist already were committed
// before a crash.
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

//go:build linux

package lease_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"swarm/worker/lease"
)

func TestLease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lease")
	if got := lease.Left(path); got != 0 {
		t.Errorf("no file: got %s left, want none", got)
	}
	l := lease.New(path, lease.Now)
	end := lease.Now() + time.Hour
	if err := l.Renew(end - time.Hour/2); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file of a node without single-writer tasks: got %v, want none", err)
	}
	if got, err := l.File(); got != path || err != nil {
		t.Fatalf("file: got %q, %v, want %q", got, err, path)
	}
	if got := lease.Left(path); got < 29*time.Minute || got > 30*time.Minute {
		t.Errorf("shim: got %s left, want half an hour", got)
	}
	for _, next := range []time.Duration{end, end - time.Minute} { // it never moves back
		if err := l.Renew(next); err != nil {
			t.Fatal(err)
		}
		for who, got := range map[string]time.Duration{"daemon": l.Left(), "shim": lease.Left(path), "next daemon": lease.New(path, lease.Now).Left()} {
			if got < 59*time.Minute || got > time.Hour {
				t.Errorf("%s: got %s left, want an hour", who, got)
			}
		}
	}
	if err := l.Begin(lease.Now() + time.Minute); err != nil {
		t.Fatal(err)
	}
	for who, got := range map[string]time.Duration{"daemon": l.Left(), "shim": lease.Left(path)} {
		if got > time.Minute {
			t.Errorf("%s: got %s left of a lease that has begun anew, want a minute", who, got)
		}
	}
	past := filepath.Join(t.TempDir(), "past")
	over := lease.New(past, lease.Now)
	if err := over.Renew(lease.Now() - time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := over.File(); err != nil {
		t.Fatal(err)
	}
	if got := lease.Left(past); got != 0 {
		t.Errorf("a lease that has run out: got %s left, want none", got)
	}
	if err := os.WriteFile(path, []byte("soon"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := lease.Left(path); got != 0 {
		t.Errorf("a damaged file: got %s left, want none", got)
	}
}

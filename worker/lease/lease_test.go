//go:build linux

package lease_test

import (
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
	if err := lease.New(past, lease.Now).Renew(lease.Now() - time.Second); err != nil {
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

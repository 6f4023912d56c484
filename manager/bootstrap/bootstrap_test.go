package bootstrap

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	swarmv1 "swarm/proto/swarm/v1"
)

// store records what is committed.
type store struct {
	err  error
	rows []*swarmv1.Change
}

func (s *store) Commit(_ context.Context, _ string, rows ...*swarmv1.Change) (uint64, error) {
	s.rows = rows
	return 1, s.err
}

// The rows stay in the file until they are committed, and not longer.
func TestCommit(t *testing.T) {
	rows := []*swarmv1.Change{{Precondition: &swarmv1.Change_IfAbsent{IfAbsent: true}}}
	ended, end := context.WithCancel(t.Context())
	end()
	failed := errors.New("disk is full")
	for name, c := range map[string]struct {
		ctx     context.Context
		answer  error
		want    error
		pending bool
	}{
		"committed":             {t.Context(), nil, nil, false},
		"committed before":      {t.Context(), errdefs.ErrAlreadyExists, nil, false},
		"the store fails":       {t.Context(), failed, failed, true},
		"the daemon ends first": {ended, ended.Err(), nil, true},
	} {
		f, s := In(t.TempDir()), &store{err: c.answer}
		if f.Pending() {
			t.Errorf("%s: rows are pending before they are saved", name)
		}
		if err := f.Commit(c.ctx, s); err != nil || s.rows != nil {
			t.Errorf("%s: without rows: %v, committed %v", name, err, s.rows)
		}
		if err := f.Save(rows); err != nil || !f.Pending() {
			t.Fatalf("%s: save: %v", name, err)
		}
		if err := f.Commit(c.ctx, s); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if diff := cmp.Diff(rows, s.rows, protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if f.Pending() != c.pending {
			t.Errorf("%s: pending is %t", name, f.Pending())
		}
	}
}

func TestCommit_DamagedFile(t *testing.T) {
	f := In(t.TempDir())
	if err := os.WriteFile(string(f), []byte{0xff}, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(t.Context(), &store{}); err == nil || !f.Pending() {
		t.Errorf("got %v, pending %t", err, f.Pending())
	}
}

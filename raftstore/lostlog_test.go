package raftstore_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"swarm/internal/seal"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// A member that has had a log never starts without it. Open names the file and changes nothing, so
// that the member starts again once the files are back.
func TestOpen_RefusesToStartWithoutItsLog(t *testing.T) {
	dir, id := t.TempDir(), ""
	ring := seal.NewRing(seal.NewKey())
	cfg := raftstore.Config{NodeID: "m1", Bootstrap: true, Dir: dir, Sealer: ring, TrailingBytes: 1}
	l := newLAN()
	m := l.start(t, cfg, func(d *raftstore.Deps) {
		d.LogCreated = func(created string) error {
			if _, err := os.Stat(filepath.Join(dir, "raft.db")); err != nil || id != "" {
				t.Errorf("LogCreated: the log is not on the disk (%v), or was created before (%q)", err, id)
			}
			id = created
			return nil
		}
	})
	m.awaitLead(t)
	if _, err := m.Commit(t.Context(), "test", table.Create(task("t1"))); err != nil {
		t.Fatal(err)
	}
	if err := m.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Commit(t.Context(), "test", table.Create(task("t2"))); err != nil {
		t.Fatal(err)
	}
	if err := l.stop(m); err != nil {
		t.Fatal(err)
	}
	if id == "" {
		t.Fatal("LogCreated was not called")
	}
	cfg.LogID = id
	other := t.TempDir()
	o, err := raftstore.Open(raftstore.Config{NodeID: "m1", Bootstrap: true, Dir: other, Sealer: ring}, raftstore.Deps{LogCreated: func(string) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	otherLog, err := os.ReadFile(filepath.Join(other, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file, want string
		damage           func(file string) error
	}{
		{"missing", "raft.db", "is missing", os.Remove},
		{"empty", "raft.db", "is empty", func(f string) error { return os.Truncate(f, 0) }},
		{"cut off", "raft.db", "is cut off", func(f string) error { return os.Truncate(f, 16<<10) }},
		{"no log", "raft.db", "is damaged", func(f string) error { return os.WriteFile(f, make([]byte, 64<<10), 0o600) }},
		{"another log", "raft.db", "is not the one", func(f string) error { return os.WriteFile(f, otherLog, 0o600) }},
		{"no snapshots", "snapshots", "are missing or damaged", os.RemoveAll},
	} {
		kept := t.TempDir()
		if err := os.CopyFS(kept, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, c.file)
		if err := c.damage(file); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the first refusal must not make the second start possible
			if s, err := raftstore.Open(cfg, raftstore.Deps{}); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want data loss that says that %s %s", c.name, err, file, c.want)
				if s != nil {
					_ = s.Close()
				}
			}
		}
		if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(kept))); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Sealer = seal.NewRing(seal.NewKey())
	if _, err := raftstore.Open(cfg, raftstore.Deps{}); !errdefs.IsDataLoss(err) {
		t.Errorf("with other keys: got %v, want data loss", err)
	}
	cfg.Sealer = ring
	again := l.start(t, cfg)
	again.awaitLead(t)
	if got := again.View().Tasks.Len(); got != 2 {
		t.Errorf("after the files are back: %d tasks, want 2", got)
	}
}

// A member that received a snapshot has an empty log. It must not start without the snapshot.
func TestOpen_RefusesToStartWithoutAReceivedSnapshot(t *testing.T) {
	l := newLAN()
	leader := l.start(t, raftstore.Config{NodeID: "m1", Bootstrap: true})
	leader.awaitLead(t)
	if _, err := leader.Commit(t.Context(), "test", table.Create(task("t1"))); err != nil {
		t.Fatal(err)
	}
	cfg := raftstore.Config{NodeID: "m2", Dir: t.TempDir()}
	m := l.start(t, cfg, func(d *raftstore.Deps) {
		d.LogCreated = func(id string) error { cfg.LogID = id; return nil }
	})
	if err := leader.AddVoter(t.Context(), "m2"); err != nil {
		t.Fatal(err)
	}
	if err := l.stop(m); err != nil {
		t.Fatal(err)
	}
	snapshots := filepath.Join(cfg.Dir, "snapshots")
	if err := os.RemoveAll(snapshots); err != nil {
		t.Fatal(err)
	}
	if _, err := raftstore.Open(cfg, raftstore.Deps{}); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), snapshots) {
		t.Errorf("without the snapshot: got %v, want data loss that names %s", err, snapshots)
	}
}

// A crash before Raft uses a new log leaves a member that starts, and that records the same log.
func TestOpen_StartsAfterACrashBeforeTheLogIsRecorded(t *testing.T) {
	cfg := raftstore.Config{NodeID: "m1", Bootstrap: true, Dir: t.TempDir()}
	var ids []string
	crash := errors.New("crash")
	record := func(id string) error {
		ids = append(ids, id)
		return crash
	}
	if _, err := raftstore.Open(cfg, raftstore.Deps{LogCreated: record}); !errors.Is(err, crash) {
		t.Fatalf("got %v, want that Open fails if the log is not recorded", err)
	}
	crash = nil
	l := newLAN()
	l.start(t, cfg, func(d *raftstore.Deps) { d.LogCreated = record }).awaitLead(t)
	if len(ids) != 2 || ids[0] != ids[1] {
		t.Errorf("recorded logs: %q, want the same twice", ids)
	}
}

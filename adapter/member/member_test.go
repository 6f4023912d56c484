//go:build linux

package member

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
	"swarm/internal/pki"
	"swarm/node"
	"swarm/overlay/probe"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/worker"
	"swarm/worker/engine"
	"swarm/worker/simulated"
)

func TestStatus(t *testing.T) {
	servers := []raftstore.Server{{ID: "a", Voter: true}, {ID: "b"}, {ID: "c", Voter: true}}
	for self, voter := range map[string]bool{"a": true, "b": false, "removed": false} {
		got := standing(self, "c", 5, servers)
		if want := (node.ManagerStatus{Voter: voter, Leader: "c", Managers: 3, Nodes: 5}); got != want {
			t.Errorf("%s: got %+v, want %+v", self, got, want)
		}
	}
}

// A leader that has lost the majority must step down before another one can be elected.
func TestRaftTimeouts_LeaseEndsBeforeAnElection(t *testing.T) {
	for _, silence := range []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 10 * time.Second} {
		got := RaftTimeouts(silence)
		if got.LeaderLease >= got.Heartbeat || got.Heartbeat != silence || got.Leader < 5*time.Second || got.Leader < got.Heartbeat+got.Election {
			t.Errorf("%v: got %+v", silence, got)
		}
	}
}

func TestBootstrap(t *testing.T) {
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.CreateCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Bootstrap(node.BootstrapRequest{
		NodeID: ident.NewID(), ClusterID: ident.NewID(), CSR: csr, Hostname: "a", MachineID: "m",
		Membership: node.Membership{Addr: "192.0.2.1", Port: 2377}, Init: &swarmv1.InitRequest{},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Rows) == 0 || len(got.Certificate) == 0 || len(got.Bundle) == 0 || len(got.GossipKeys) == 0 || got.WorkerToken == "" {
		t.Errorf("something is missing: %+v", got)
	}
}

// An archive for which the disk has no room is refused before a byte of it is read.
func TestImages_LoadNeedsRoom(t *testing.T) {
	i := Images{store: simulated.NewImages(), hostname: "node1", room: func(bytes int64) error {
		if bytes > 100 {
			return errdefs.ErrResourceExhausted
		}
		return nil
	}}
	r := &countingReader{}
	if _, err := i.Load(t.Context(), r, 101, "", nil); !errdefs.IsResourceExhausted(err) || r.reads > 0 {
		t.Errorf("got %v after %d reads, want ErrResourceExhausted", err, r.reads)
	}
}

type countingReader struct{ reads int }

func (r *countingReader) Read([]byte) (int, error) {
	r.reads++
	return 0, io.EOF
}

// runtime has containers, some of which cannot be removed.
type runtime struct {
	found   []engine.Found
	listErr error
	stuck   string

	mu      sync.Mutex // guards removed
	removed []string
}

func (r *runtime) List(context.Context) ([]engine.Found, error)            { return r.found, r.listErr }
func (*runtime) Stop(context.Context, string, string, time.Duration) error { return nil }

func (r *runtime) Remove(_ context.Context, id string) error {
	if id == r.stuck {
		return errdefs.ErrUnavailable
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed = append(r.removed, id)
	return nil
}

// Clean removes the networks after the containers. It leaves them if it cannot list the containers.
func TestClean(t *testing.T) {
	var found []engine.Found
	for _, id := range []string{"a", "b", "c"} {
		var f engine.Found
		f.TaskID = id
		found = append(found, f)
	}
	for name, c := range map[string]struct {
		runtime *runtime
		removed []string
		purged  bool
		fails   bool
	}{
		"all":                     {&runtime{found: found}, []string{"a", "b", "c"}, true, false},
		"one cannot be removed":   {&runtime{found: found, stuck: "b"}, []string{"a", "c"}, true, true},
		"they are not to be seen": {&runtime{found: found, listErr: errdefs.ErrUnavailable}, nil, false, true},
	} {
		purged := false
		run := t.TempDir()
		files := filepath.Join(worker.FilesDir(run), "a")
		if err := os.MkdirAll(files, 0o700); err != nil {
			t.Fatal(err)
		}
		err := Clean(t.Context(), c.runtime, run, func(context.Context) error {
			purged = true
			return nil
		})
		slices.Sort(c.runtime.removed)
		if !slices.Equal(c.runtime.removed, c.removed) || purged != c.purged || (err != nil) != c.fails {
			t.Errorf("%s: removed %v, purged %t, %v", name, c.runtime.removed, purged, err)
		}
		if _, err := os.Stat(files); os.IsNotExist(err) != c.purged {
			t.Errorf("%s: files of a task: %v, want them removed: %t", name, err, c.purged)
		}
	}
}

// Connected returns at the first contact, and later ones change nothing.
func TestWorker_Connected(t *testing.T) {
	m := NewWorker(WorkerDeps{Prober: func(func(context.Context) (*swarmv1.SurveyedSelf, error)) *probe.Prober { return nil }})
	ctx, cancel := context.WithCancel(t.Context())
	m.OnContact("m1", false)
	cancel()
	if err := m.Connected(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("without contact: got %v", err)
	}
	m.OnContact("m1", true)
	m.OnContact("m1", false)
	m.OnContact("m2", true)
	if err := m.Connected(t.Context()); err != nil {
		t.Errorf("after contact: got %v", err)
	}
	if self, err := m.self(t.Context()); err != nil || len(self.GetNetworks()) > 0 {
		t.Errorf("with a simulated runtime: has networks %v, %v", self, err)
	}
}

func TestPeerMessages(t *testing.T) {
	got := PeerMessages([]node.Peer{{NodeID: "a", Addr: "192.0.2.1", Port: 2377}})
	if len(got) != 1 || got[0].GetNodeId() != "a" || got[0].GetAddr() != "192.0.2.1" || got[0].GetPort() != 2377 {
		t.Errorf("got %v", got)
	}
}

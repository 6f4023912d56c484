package worker_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
	"swarm/worker/simulated"
)

// rig is a node with managers that the test controls.
type rig struct {
	t        testing.TB
	dir      string
	run      string
	runtime  *simulated.Runtime
	images   *simulated.Images
	network  *simulated.Network
	managers map[string]*manager
	peers    []*swarmv1.Peer
	edit     func(*worker.Config, *worker.Deps)

	w    *worker.Worker
	stop func()
}

func newRig(t testing.TB, cfg simulated.Config, managers ...string) *rig {
	images := simulated.NewImages()
	r := &rig{
		t: t, dir: t.TempDir(), run: runDir(t), images: images,
		runtime: simulated.New(cfg, images), network: simulated.NewNetwork(), managers: map[string]*manager{},
	}
	for _, id := range managers {
		m := newManager(t, id)
		r.managers[id] = m
		r.peers = append(r.peers, &swarmv1.Peer{NodeId: id})
	}
	return r
}

// runDir is in memory, as /run is.
func runDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "swarm-worker-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// start runs a worker process. The rig keeps the state, the containers and the network for the next
// one.
func (r *rig) start() {
	r.t.Helper()
	cfg := worker.Config{NodeID: "n1", Hostname: "host1", ClusterID: "c1", StateDir: r.dir, RunDir: r.run, SinceBoot: func() time.Duration { return time.Duration(time.Now().UnixNano()) }}
	deps := worker.Deps{
		Log: slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})), Runtime: r.runtime, Images: r.images, Network: r.network, Executor: r.runtime,
		Managers: func() []*swarmv1.Peer { return r.peers },
		Dial:     func(id string) (grpc.ClientConnInterface, error) { return r.managers[id].conn, nil },
		Describe: func() *swarmv1.NodeDescription { return &swarmv1.NodeDescription{Hostname: "host1"} },
	}
	if r.edit != nil {
		r.edit(&cfg, &deps)
	}
	w, err := worker.New(cfg, deps)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	r.w = w
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Run: %v", err)
		}
		if err := w.Close(); err != nil {
			r.t.Errorf("Close: %v", err)
		}
	})
}

func (r *rig) close() {
	if r.stop != nil {
		r.stop()
	}
	for _, m := range r.managers {
		m.close()
	}
}

// bubble runs a test of one rig in a bubble of fake time.
func bubble(t *testing.T, cfg simulated.Config, managers []string, test func(*testing.T, *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, cfg, managers...)
		defer r.close()
		test(t, r)
	})
}

// manager is a dispatcher that records statuses and sends what a test tells it to.
type manager struct {
	swarmv1.UnimplementedDispatcherServer
	t      testing.TB
	id     string
	conn   *grpc.ClientConn
	server *grpc.Server

	mu         sync.Mutex
	epoch      uint64 // the number of sessions
	cluster    uint64
	deaf       bool // answers no heartbeat
	jammed     bool // does not read
	noAck      bool
	refuse     error
	removed    bool
	session    *managerSession
	sessions   int
	hellos     []*swarmv1.Hello
	reports    []*swarmv1.StatusReport
	statuses   map[string]*swarmv1.TaskStatus
	history    map[string][]swarmv1.TaskState
	images     *swarmv1.ImageReport
	departed   time.Time
	programmed uint64        // sequence of the newest assignments that the worker has acknowledged
	settles    chan struct{} // AwaitProgrammed returns when it is closed; nil: at once
	initial    []*swarmv1.Assignment
	index      uint64
	changed    chan struct{}
}

type managerSession struct {
	stream   swarmv1.Dispatcher_SessionServer
	sequence uint64
	mu       sync.Mutex // guards Send
	end      chan error
}

func newManager(t testing.TB, id string) *manager {
	m := &manager{t: t, id: id, statuses: map[string]*swarmv1.TaskStatus{}, history: map[string][]swarmv1.TaskState{}, index: 10, cluster: 1, changed: make(chan struct{})}
	ln := bufconn.Listen(1 << 20)
	m.server = grpc.NewServer()
	swarmv1.RegisterDispatcherServer(m.server, m)
	go func() { _ = m.server.Serve(ln) }()
	conn, err := grpc.NewClient("passthrough:///"+id, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	m.conn = conn
	return m
}

func (m *manager) close() {
	_ = m.conn.Close()
	m.server.Stop()
}

func (m *manager) Session(stream swarmv1.Dispatcher_SessionServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	s := &managerSession{stream: stream, end: make(chan error, 1)}
	m.mu.Lock()
	if m.removed {
		defer m.mu.Unlock()
		_ = stream.Send(&swarmv1.ToWorker{Message: &swarmv1.ToWorker_Node{Node: &swarmv1.NodeUpdate{Removed: true}}})
		return errdefs.ErrPermissionDenied
	}
	if m.refuse != nil {
		defer m.mu.Unlock()
		return m.refuse
	}
	m.epoch++
	m.hellos = append(m.hellos, first.GetHello())
	welcome := &swarmv1.Welcome{ManagerId: m.id, SessionEpoch: m.epoch, Epoch: m.cluster, HeartbeatPeriod: durationpb.New(time.Second)}
	initial, index := m.initial, m.index
	m.mu.Unlock()
	s.send(&swarmv1.ToWorker{Message: &swarmv1.ToWorker_Welcome{Welcome: welcome}})
	s.assign(&swarmv1.Assignments{Complete: true, Index: index, Changes: puts(initial...)})
	m.mu.Lock() // Messages of a test come after this one.
	m.sessions++
	m.session = s
	m.signalLocked()
	m.mu.Unlock()
	received := make(chan error, 1)
	go func() { received <- m.receive(s) }()
	select {
	case err = <-s.end:
	case err = <-received:
	}
	return err
}

func (m *manager) AwaitProgrammed(ctx context.Context, _ *swarmv1.AwaitProgrammedRequest) (*swarmv1.AwaitProgrammedResponse, error) {
	m.mu.Lock()
	settles := m.settles
	m.mu.Unlock()
	if settles != nil {
		select {
		case <-settles:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &swarmv1.AwaitProgrammedResponse{}, nil
}

func (m *manager) receive(s *managerSession) error {
	for {
		msg, err := s.stream.Recv()
		if err != nil {
			return err
		}
		m.mu.Lock()
		if m.jammed {
			m.mu.Unlock()
			<-s.stream.Context().Done()
			return nil
		}
		var answer *swarmv1.ToWorker
		switch x := msg.Message.(type) {
		case *swarmv1.FromWorker_Heartbeat:
			if !m.deaf {
				answer = &swarmv1.ToWorker{Message: &swarmv1.ToWorker_HeartbeatAck{HeartbeatAck: &swarmv1.HeartbeatAck{Sequence: x.Heartbeat.Sequence, Confirmed: x.Heartbeat.Sequence}}}
			}
		case *swarmv1.FromWorker_Status:
			m.reports = append(m.reports, x.Status)
			if !m.noAck {
				for _, u := range x.Status.Updates {
					m.statuses[u.TaskId] = u
					m.history[u.TaskId] = append(m.history[u.TaskId], u.State)
				}
				answer = &swarmv1.ToWorker{Message: &swarmv1.ToWorker_StatusAck{StatusAck: &swarmv1.StatusAck{Sequence: x.Status.Sequence}}}
			}
		case *swarmv1.FromWorker_Departure:
			m.departed = time.Now()
			if !m.noAck {
				answer = &swarmv1.ToWorker{Message: &swarmv1.ToWorker_DepartureAck{DepartureAck: &swarmv1.DepartureAck{}}}
			}
		case *swarmv1.FromWorker_Programmed:
			m.programmed = x.Programmed.Sequence
		case *swarmv1.FromWorker_Images:
			m.images = x.Images
		}
		m.signalLocked()
		m.mu.Unlock()
		if answer != nil {
			s.send(answer)
		}
	}
}

func (m *manager) signalLocked() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (s *managerSession) send(msg *swarmv1.ToWorker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.stream.Send(msg)
}

func (s *managerSession) assign(a *swarmv1.Assignments) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sequence++
	if a.Sequence == 0 {
		a.Sequence = s.sequence
	}
	_ = s.stream.Send(&swarmv1.ToWorker{Message: &swarmv1.ToWorker_Assignments{Assignments: a}})
}

// assign sends a change in the session that is open.
func (m *manager) assign(changes ...*swarmv1.AssignmentChange) {
	m.mu.Lock()
	m.index++
	s, index := m.session, m.index
	m.mu.Unlock()
	s.assign(&swarmv1.Assignments{Index: index, Changes: changes})
}

// drop ends the session that is open.
func (m *manager) drop(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.session.end <- err
}

// wait blocks until ok holds of the manager's state, up to a minute of the bubble's time.
func (m *manager) wait(what string, ok func() bool) {
	m.t.Helper()
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	for {
		m.mu.Lock()
		done, changed := ok(), m.changed
		m.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			m.mu.Lock()
			defer m.mu.Unlock()
			states := map[swarmv1.TaskState]int{}
			for _, s := range m.statuses {
				states[s.State]++
			}
			m.t.Fatalf("timed out waiting for %s; states: %v, sessions: %d", what, states, m.sessions)
		}
	}
}

// status returns the last reported status of a task; nil: there is none.
func (m *manager) status(id string) *swarmv1.TaskStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.statuses[id]
}

func (m *manager) waitState(id string, state swarmv1.TaskState) *swarmv1.TaskStatus {
	m.t.Helper()
	m.wait(fmt.Sprintf("%s %s", id, state), func() bool { return m.statuses[id].GetState() == state })
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.statuses[id]
}

// waitErr waits until the Err of a task's status contains text, whatever its state.
func (m *manager) waitErr(id, text string) *swarmv1.TaskStatus {
	m.t.Helper()
	m.wait(fmt.Sprintf("%s %q", id, text), func() bool { return strings.Contains(m.statuses[id].GetErr(), text) })
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.statuses[id]
}

func (m *manager) waitSession(n int) {
	m.t.Helper()
	m.wait(fmt.Sprintf("session %d", n), func() bool { return m.sessions >= n })
}

func puts(objects ...*swarmv1.Assignment) []*swarmv1.AssignmentChange {
	var out []*swarmv1.AssignmentChange
	for _, o := range objects {
		out = append(out, &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Put{Put: o}})
	}
	return out
}

func removal(kind swarmv1.AssignmentRef_Kind, id string) *swarmv1.AssignmentChange {
	return &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Remove{Remove: &swarmv1.AssignmentRef{Kind: kind, Id: id}}}
}

func taskObject(id string, desired swarmv1.TaskState, edit ...func(*swarmv1.Task)) *swarmv1.Assignment {
	t := &swarmv1.Task{Id: id, ServiceId: "s1", Revision: 1, Slot: 1, NodeId: "n1", DesiredState: desired}
	for _, e := range edit {
		e(t)
	}
	return &swarmv1.Assignment{Object: &swarmv1.Assignment_Task{Task: t}}
}

func revisionObject(edit ...func(*swarmv1.ServiceSpec)) *swarmv1.Assignment {
	spec := &swarmv1.ServiceSpec{Name: "web", TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{Image: "docker.io/library/web:1@sha256:1"}}}
	for _, e := range edit {
		e(spec)
	}
	return &swarmv1.Assignment{Object: &swarmv1.Assignment_Revision{Revision: &swarmv1.Revision{ServiceId: "s1", Number: 1, Spec: spec}}}
}

package manager_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"swarm/internal/broadcast"
	"swarm/internal/ident"
	"swarm/internal/pki"
	"swarm/internal/transport"
	"swarm/manager"
	"swarm/manager/ca"
	"swarm/manager/control/controltest"
	"swarm/manager/dispatch/liveness"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

const self = "m1" // the id of the store's member

// rig is a cluster with one manager, which is the leader, and a gossip whose statuses the test
// sets.
type rig struct {
	t      *testing.T
	store  *raftstore.Store
	mgr    *manager.Manager
	gossip *gossip
	admin  swarmv1.ControlClient
}

type gossip struct {
	mu      sync.Mutex // guards the fields below
	says    map[string]liveness.GossipStatus
	changed broadcast.Signal
}

func (g *gossip) Status(id string) liveness.GossipStatus {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.says[id]
}

func (g *gossip) Changed() (members, verdicts <-chan struct{}) {
	return g.changed.Changed(), nil
}

func (g *gossip) say(id string, s liveness.GossipStatus) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.says[id] = s
	g.changed.Broadcast()
}

// resolver is a registry that controltest simulates.
type resolver = controltest.Registry

const testDigest = controltest.Digest

func newRig(t *testing.T, edit ...func(*manager.Deps)) *rig {
	t.Helper()
	r := &rig{t: t, store: raftstoretest.New(t), gossip: &gossip{says: map[string]liveness.GossipStatus{}}}
	r.bootstrap()
	deps := manager.Deps{
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Store: r.store, Gossip: r.gossip, Resolver: resolver{},
		Conn: func(string) (grpc.ClientConnInterface, error) { return nil, errors.New("no way there") },
	}
	for _, e := range edit {
		e(&deps)
	}
	r.mgr = manager.New(manager.Config{NodeID: self}, deps)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.mgr.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run manager: %v", err)
		}
	})
	r.admin = swarmv1.NewControlClient(r.dial(transport.AuthInfo{Local: &transport.LocalUser{}}))
	return r
}

func (r *rig) bootstrap() {
	r.t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		r.t.Fatal(err)
	}
	csr, err := pki.CreateCSR(key)
	if err != nil {
		r.t.Fatal(err)
	}
	found, err := ca.NewCluster(ca.BootstrapConfig{CSR: csr, Addr: "10.0.0.1", Port: 2377, Format: table.Format}, time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	node := found.Node
	node.Id, node.MachineId, node.Hostname = self, self, self
	node.Spec.Availability = swarmv1.NodeSpec_DRAIN
	_, err = r.store.Commit(r.t.Context(), "init", table.Create(found.Cluster), table.Create(node), table.Create(&swarmv1.NodeState{NodeId: self, State: swarmv1.NodeState_READY}))
	if err != nil {
		r.t.Fatal(err)
	}
}

func serve(t *testing.T, who transport.AuthInfo, register func(grpc.ServiceRegistrar), judge func(context.Context, string) error) *grpc.ClientConn {
	t.Helper()
	return controltest.Serve(t, who, register, judge)
}

func (r *rig) dial(who transport.AuthInfo) *grpc.ClientConn {
	return serve(r.t, who, func(s grpc.ServiceRegistrar) { r.mgr.Register(s) }, r.mgr.Authorise)
}

func nodeInfo(id string) transport.AuthInfo { return controltest.NodeInfo(id) }

// addNode writes the rows of a node that has joined.
func (r *rig) addNode(host string) string {
	r.t.Helper()
	id := ident.NewID()
	r.commit(
		table.Create(&swarmv1.Node{Id: id, MachineId: host, Hostname: host, Addr: host, Port: 2377, Spec: &swarmv1.NodeSpec{}, PublicKey: []byte(id)}),
		table.Create(&swarmv1.NodeState{NodeId: id}),
	)
	return id
}

func (r *rig) commit(changes ...*swarmv1.Change) {
	r.t.Helper()
	index, err := r.store.Commit(r.t.Context(), "test", changes...)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.store.WaitIndex(r.t.Context(), index); err != nil {
		r.t.Fatal(err)
	}
}

// worker is a node that reports every assigned task at once as being in its desired state.
type worker struct {
	t      *testing.T
	id     string
	stream swarmv1.Dispatcher_SessionClient
	cancel context.CancelFunc
	done   chan error

	mu       sync.Mutex // guards the fields below, and sending
	quiet    bool       // sends nothing and does nothing
	busy     bool       // does nothing
	missed   []*swarmv1.Assignments
	tasks    map[string]*swarmv1.Task
	revs     map[string]bool
	sequence uint64
	messages []*swarmv1.Assignments
	removed  bool
	epoch    uint64
	acked    uint64
	unsaid   []*swarmv1.TaskStatus // waiting until the last report is acknowledged
	roles    []swarmv1.NodeSpec_Role
	parted   bool // the manager has told it that its node is down
}

// join adds a node and opens its session.
func (r *rig) join(host string) *worker {
	r.t.Helper()
	w := r.open(r.addNode(host), host)
	synctest.Wait()
	return w
}

func (r *rig) open(id, host string) *worker { return r.openAs(id, host, host) }

// openAs opens a session in which the worker reports the given address.
func (r *rig) openAs(id, host, addr string) *worker {
	r.t.Helper()
	return r.greet(id, &swarmv1.Hello{
		MachineId: host, Addr: addr, Port: 2377,
		Description: &swarmv1.NodeDescription{
			Hostname: host, Platform: &swarmv1.Platform{Os: "linux", Architecture: "amd64"},
			Resources: &swarmv1.Resources{NanoCpus: 4e9, MemoryBytes: 8 << 30},
		},
	})
}

// greet opens a session that begins with the hello.
func (r *rig) greet(id string, hello *swarmv1.Hello) *worker {
	r.t.Helper()
	conn := r.dial(nodeInfo(id))
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := swarmv1.NewDispatcherClient(conn).Session(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	w := &worker{t: r.t, id: id, stream: stream, cancel: cancel, done: make(chan error, 1), tasks: map[string]*swarmv1.Task{}, revs: map[string]bool{}}
	w.send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Hello{Hello: hello}})
	ended := make(chan struct{})
	go func() {
		err := w.receive()
		close(ended)
		w.done <- err
	}()
	beats := make(chan struct{})
	go func() {
		defer close(beats)
		w.beat(ended)
	}()
	r.t.Cleanup(func() {
		cancel()
		<-ended
		<-beats
	})
	return w
}

func (w *worker) send(m *swarmv1.FromWorker) {
	_ = w.stream.Send(m)
}

func (w *worker) beat(ended <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.mu.Lock()
			if !w.quiet {
				w.send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Heartbeat{Heartbeat: &swarmv1.Heartbeat{Sequence: 1}}})
			}
			w.mu.Unlock()
		case <-ended:
			return
		}
	}
}

func (w *worker) receive() error {
	for {
		m, err := w.stream.Recv()
		if err != nil {
			return transport.FromStatus(err)
		}
		w.mu.Lock()
		switch m := m.GetMessage().(type) {
		case *swarmv1.ToWorker_Welcome:
			w.epoch = m.Welcome.GetSessionEpoch()
		case *swarmv1.ToWorker_Node:
			w.removed = w.removed || m.Node.GetRemoved()
			w.roles = append(w.roles, m.Node.GetNode().GetSpec().GetRole())
		case *swarmv1.ToWorker_DepartureAck:
			w.parted = true
		case *swarmv1.ToWorker_StatusAck:
			w.acked = m.StatusAck.GetSequence()
			w.say()
		case *swarmv1.ToWorker_Assignments:
			w.messages = append(w.messages, m.Assignments)
			if w.quiet || w.busy {
				w.missed = append(w.missed, m.Assignments)
			} else {
				w.obey(m.Assignments)
				w.confirm(m.Assignments)
			}
		}
		w.mu.Unlock()
	}
}

// obey reports every task as being in its desired state.
func (w *worker) obey(a *swarmv1.Assignments) {
	var updates []*swarmv1.TaskStatus
	for _, c := range a.GetChanges() {
		if ref := c.GetRemove(); ref.GetKind() == swarmv1.AssignmentRef_TASK {
			delete(w.tasks, ref.GetId())
		}
		if rev := c.GetPut().GetRevision(); rev != nil {
			w.revs[table.Key(rev)] = true
		}
		t := c.GetPut().GetTask()
		if t == nil {
			continue
		}
		if !w.revs[table.RevisionKey(t.GetServiceId(), t.GetRevision())] {
			w.t.Errorf("task %s came before its revision", t.GetId())
		}
		w.tasks[t.GetId()] = t
		st := &swarmv1.TaskStatus{TaskId: t.GetId(), State: swarmv1.TaskState_RUNNING, Ready: true, AppliedRevision: t.GetRevision()}
		if t.GetDesiredState() >= swarmv1.TaskState_SHUTDOWN {
			st.State, st.Ready = swarmv1.TaskState_SHUTDOWN, false
		}
		updates = append(updates, st)
	}
	if len(updates) > 0 {
		w.say(updates...)
	}
}

// say queues statuses, and reports them when the last report is acknowledged. The caller holds the
// mutex.
func (w *worker) say(updates ...*swarmv1.TaskStatus) {
	w.unsaid = append(w.unsaid, updates...)
	if w.acked < w.sequence || len(w.unsaid) == 0 {
		return
	}
	w.sequence++
	w.send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Status{Status: &swarmv1.StatusReport{Sequence: w.sequence, Updates: w.unsaid}}})
	w.unsaid = nil
}

// confirm acknowledges assignments.
func (w *worker) confirm(a *swarmv1.Assignments) {
	w.send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Programmed{Programmed: &swarmv1.Programmed{Sequence: a.GetSequence()}}})
}

// report reports the state of one task.
func (w *worker) report(st *swarmv1.TaskStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.say(st)
}

func (w *worker) silence() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quiet = true
}

// delay keeps the worker from acting on messages until speak.
func (w *worker) delay() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = true
}

// speak ends a silence or a delay.
func (w *worker) speak() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quiet, w.busy = false, false
	for _, a := range w.missed {
		w.obey(a)
		w.confirm(a)
	}
	w.missed = nil
}

// running counts the tasks that the worker was told to run.
func (w *worker) running() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.tasks {
		if t.GetDesiredState() == swarmv1.TaskState_RUNNING {
			n++
		}
	}
	return n
}

func (r *rig) state(id string) swarmv1.NodeState_State {
	st, _ := r.store.View().NodeStates.Get(id)
	return st.GetState()
}

func serviceSpec(name string, replicas uint64) *swarmv1.ServiceSpec {
	return controltest.ServiceSpec(name, replicas)
}

func (r *rig) create(spec *swarmv1.ServiceSpec) string {
	r.t.Helper()
	resp, err := r.admin.CreateService(r.t.Context(), &swarmv1.CreateServiceRequest{Spec: spec})
	if err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
	return resp.GetId()
}

func (r *rig) service(ref string) *swarmv1.ServiceInfo {
	r.t.Helper()
	info, err := r.admin.GetService(r.t.Context(), &swarmv1.GetRequest{Id: ref})
	if err != nil {
		r.t.Fatal(err)
	}
	return info
}

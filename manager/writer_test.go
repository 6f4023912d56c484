package manager_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
	agent "swarm/worker"
	"swarm/worker/engine"
	"swarm/worker/lease"
	"swarm/worker/simulated"
)

const (
	writerTimeout = 2 * time.Second
	// writerGrace is longer than the lease, because no container obeys its stop signal.
	writerGrace = 3 * time.Second
	// writerLook is the interval at which the test checks which containers run.
	writerLook = 20 * time.Millisecond
)

// TestSingleWriter_Simulated runs a single-writer service on real workers with simulated
// containers. At random, cables are cut and healed, daemons and runtimes are killed, nodes are
// drained or removed by force, the service is updated, and the session timeout changes. The test
// acts as the shims. Two containers of the service must never run at once, and without disturbances
// one must run again. ROUNDS is the number of rounds (default 10). SEED=n runs one seed.
func TestSingleWriter_Simulated(t *testing.T) {
	first, rounds := number(t, "SEED", 0), number(t, "ROUNDS", 10)
	if os.Getenv("SEED") != "" {
		rounds = 1
	}
	for seed := first; seed < first+rounds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newFarm(t, uint64(seed)).run() })
		})
	}
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// farm is a cluster of stations.
type farm struct {
	*rig
	*rand.Rand
	hosts   []*station
	service string
	updates int

	mu      sync.Mutex // guards rejects
	rejects bool
}

// station is a host: its daemon, which may be killed and started, and the parts that survive the
// daemon.
type station struct {
	f        *farm
	id       string
	conn     grpc.ClientConnInterface
	cable    *cable
	state    string
	folder   string
	images   *simulated.Images
	network  *simulated.Network
	runtime  *simulated.Runtime
	kill     func() // nil: the daemon is not running
	removed  bool
	drained  bool
	runtimes bool // the runtime is killed
}

func newFarm(t *testing.T, seed uint64) *farm {
	f := &farm{rig: newRig(t), Rand: rand.New(rand.NewPCG(seed, 0))}
	f.pace(writerTimeout)
	for range 3 {
		f.add()
	}
	spec := serviceSpec("db", 1)
	spec.SingleWriter = true
	spec.TaskTemplate.ContainerSpec.StopGracePeriod = durationpb.New(writerGrace)
	spec.TaskTemplate.RestartPolicy = &swarmv1.RestartPolicy{Delay: durationpb.New(time.Second)}
	spec.UpdateConfig = &swarmv1.UpdateConfig{Parallelism: 1, Monitor: durationpb.New(time.Second)}
	f.service = f.create(spec)
	return f
}

// pace sets the session timeout, which is also the lease.
func (f *farm) pace(timeout time.Duration) {
	f.t.Helper()
	f.change(func(v *table.View) *swarmv1.Change {
		c := v.Cluster().CloneVT()
		c.Spec.Dispatcher = &swarmv1.DispatcherConfig{HeartbeatPeriod: durationpb.New(writerTimeout / 4), SessionTimeout: durationpb.New(timeout)}
		return table.Update(c)
	})
}

// change writes a row, and retries if another writer has changed the row meanwhile.
func (f *farm) change(edit func(*table.View) *swarmv1.Change) {
	f.t.Helper()
	for {
		_, err := f.store.Commit(f.t.Context(), "test", edit(f.store.View()))
		if err == nil {
			return
		}
		if !errdefs.IsAborted(err) {
			f.t.Fatal(err)
		}
	}
}

func (f *farm) add() {
	f.t.Helper()
	s := &station{
		f: f, id: f.addNode(fmt.Sprintf("host%d", len(f.hosts))), cable: newCable(), state: f.t.TempDir(), folder: f.t.TempDir(),
		images: simulated.NewImages(), network: simulated.NewNetwork(),
	}
	s.conn = f.dial(nodeInfo(s.id))
	s.runtime = simulated.New(simulated.Config{
		Delays: simulated.Delays{Prepare: 300 * time.Millisecond, Start: 100 * time.Millisecond, Stop: time.Hour},
		Fail:   s.fails,
	}, s.images)
	f.hosts = append(f.hosts, s)
	s.start()
}

func sinceBoot() time.Duration { return time.Duration(time.Now().UnixNano()) }

// left returns how much of the host's lease is left, as its shims see it.
func (s *station) left() time.Duration {
	return lease.End(filepath.Join(s.folder, "lease", "end")) - sinceBoot()
}

// fails makes the shim refuse containers without a lease, and makes the preparation of some
// containers fail.
func (s *station) fails(op, _ string) error {
	s.f.mu.Lock()
	rejects := s.f.rejects
	s.f.mu.Unlock()
	switch {
	case op == "start" && s.left() <= 0:
		return errdefs.ErrAborted.WithMessage("no lease")
	case op == "prepare" && rejects:
		return errdefs.ErrInvalidArgument.WithMessage("it cannot be prepared")
	}
	return nil
}

// start runs a daemon.
func (s *station) start() {
	s.f.t.Helper()
	w, err := agent.New(agent.Config{NodeID: s.id, Hostname: s.id, ClusterID: "c", MachineID: s.machine(), StateDir: s.state, RunDir: s.folder, SinceBoot: sinceBoot}, agent.Deps{
		Log: slog.New(slog.DiscardHandler), Runtime: s.runtime, Images: s.images, Network: s.network, Executor: s.runtime,
		Managers: func() []*swarmv1.Peer { return []*swarmv1.Peer{{NodeId: self}} },
		Dial:     func(string) (grpc.ClientConnInterface, error) { return wired{s.conn, s.cable}, nil },
		Describe: func() *swarmv1.NodeDescription {
			return &swarmv1.NodeDescription{Hostname: s.id, Platform: &swarmv1.Platform{Os: "linux", Architecture: "amd64"}, Resources: &swarmv1.Resources{NanoCpus: 4e9, MemoryBytes: 8 << 30}}
		},
	})
	if err != nil {
		s.f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	s.kill = func() {
		s.cable.cut() // so that the worker cannot say that it ends
		cancel()
		if err := <-done; err != nil {
			s.f.t.Errorf("run worker: %v", err)
		}
		if err := w.Close(); err != nil {
			s.f.t.Errorf("close worker: %v", err)
		}
		s.kill = nil
		s.cable.heal()
	}
}

func (s *station) machine() string {
	row, _ := s.f.store.View().Nodes.Get(s.id)
	return row.GetMachineId()
}

// shim kills containers whose lease has expired.
func (s *station) shim() {
	if s.left() > 0 {
		return
	}
	for _, id := range s.runtime.Running() {
		s.runtime.End(id, engine.Exit{Code: 137, Fenced: true})
	}
}

func (f *farm) run() {
	f.t.Helper()
	defer f.end()
	for range int(40 * time.Second / writerLook) {
		if f.IntN(int(1200*time.Millisecond/writerLook)) == 0 {
			f.disturb()
		}
		f.look()
	}
	f.calm()
	for range int(30 * time.Second / writerLook) {
		f.look()
	}
	if n := len(f.running()); n != 1 {
		f.t.Errorf("%d containers run in the end, want 1", n)
	}
}

func (f *farm) end() {
	for _, s := range f.hosts {
		s.cable.heal()
		s.runtime.SetAway(false)
		if s.kill != nil {
			s.kill()
		}
	}
}

// look waits for a moment and fails the test if two containers run at once.
func (f *farm) look() {
	f.t.Helper()
	time.Sleep(writerLook)
	synctest.Wait()
	for _, s := range f.hosts {
		s.shim()
	}
	if at := f.running(); len(at) > 1 {
		f.t.Fatalf("containers run at once: %v", at)
	}
}

func (f *farm) running() (at []string) {
	for _, s := range f.hosts {
		for _, id := range s.runtime.Running() {
			at = append(at, id+" on "+s.id)
		}
	}
	return at
}

// disturb causes one random disturbance.
func (f *farm) disturb() {
	f.t.Helper()
	members := slices.DeleteFunc(slices.Clone(f.hosts), func(s *station) bool { return s.removed })
	s := members[f.IntN(len(members))]
	switch f.IntN(13) {
	case 0, 1, 2:
		s.cable.cut()
	case 3, 4:
		s.cable.heal()
	case 5:
		if s.kill != nil {
			s.kill()
		}
	case 6:
		if s.kill == nil {
			s.start()
		}
	case 7:
		s.runtimes = !s.runtimes
		s.runtime.SetAway(s.runtimes)
	case 8:
		s.drained = !s.drained
		f.drain(s)
	case 9, 10:
		f.update()
	case 11:
		f.pace([]time.Duration{writerTimeout, 2 * writerTimeout}[f.IntN(2)])
	case 12:
		if len(members) > 2 && f.IntN(2) == 0 {
			f.remove(s)
		} else {
			f.mu.Lock()
			f.rejects = !f.rejects
			f.mu.Unlock()
		}
	}
}

func (f *farm) drain(s *station) {
	f.t.Helper()
	f.change(func(v *table.View) *swarmv1.Change {
		row, _ := v.Nodes.Get(s.id)
		row = row.CloneVT()
		row.Spec.Availability = swarmv1.NodeSpec_ACTIVE
		if s.drained {
			row.Spec.Availability = swarmv1.NodeSpec_DRAIN
		}
		return table.Update(row)
	})
}

func (f *farm) update() {
	f.t.Helper()
	info := f.rig.service(f.service)
	spec := info.GetRevision().GetSpec().CloneVT()
	f.updates++
	spec.TaskTemplate.ForceUpdate = uint64(f.updates)
	if _, err := f.admin.UpdateService(f.t.Context(), &swarmv1.UpdateServiceRequest{Id: f.service, Version: info.GetService().GetMeta().GetVersion(), Spec: spec}); err != nil && !errdefs.IsAborted(err) {
		f.t.Fatal(err)
	}
}

// remove removes a node by force, whatever runs on it, and has a new one join.
func (f *farm) remove(s *station) {
	f.t.Helper()
	if _, err := f.admin.RemoveNode(f.t.Context(), &swarmv1.RemoveNodeRequest{Id: s.id, Force: true}); err != nil {
		f.t.Fatal(err)
	}
	s.removed = true
	f.add()
}

func (f *farm) calm() {
	f.mu.Lock()
	f.rejects = false
	f.mu.Unlock()
	for _, s := range f.hosts {
		s.cable.heal()
		s.runtime.SetAway(false)
		if s.kill == nil {
			s.start()
		}
		if !s.removed && s.drained {
			s.drained = false
			f.drain(s)
		}
	}
	f.update()
}

// cable is a network path that can be cut. As with TCP, data that is sent during a cut arrives
// after it.
type cable struct {
	mu     sync.Mutex // guards whole
	whole  chan struct{}
	parted bool
}

func newCable() *cable {
	c := &cable{whole: make(chan struct{})}
	close(c.whole)
	return c
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.parted {
		c.parted, c.whole = true, make(chan struct{})
	}
}

func (c *cable) heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parted {
		c.parted = false
		close(c.whole)
	}
}

// pass waits until the cable is whole.
func (c *cable) pass(ctx context.Context) error {
	c.mu.Lock()
	whole := c.whole
	c.mu.Unlock()
	select {
	case <-whole:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wired is a connection through a cable.
type wired struct {
	grpc.ClientConnInterface
	cable *cable
}

func (w wired) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if err := w.cable.pass(ctx); err != nil {
		return err
	}
	if err := w.ClientConnInterface.Invoke(ctx, method, args, reply, opts...); err != nil {
		return err
	}
	return w.cable.pass(ctx)
}

func (w wired) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if err := w.cable.pass(ctx); err != nil {
		return nil, err
	}
	s, err := w.ClientConnInterface.NewStream(ctx, desc, method, opts...)
	return wiredStream{s, w.cable}, err
}

type wiredStream struct {
	grpc.ClientStream
	cable *cable
}

func (s wiredStream) SendMsg(m any) error {
	if err := s.cable.pass(s.Context()); err != nil {
		return err
	}
	return s.ClientStream.SendMsg(m)
}

func (s wiredStream) RecvMsg(m any) error {
	if err := s.ClientStream.RecvMsg(m); err != nil {
		return err
	}
	return s.cable.pass(s.Context())
}

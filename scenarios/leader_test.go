package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"swarm/dev"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// promptly bounds the duration of a call while a leader exists or is being elected.
const promptly = 3 * time.Second

// TestLeaderLost repeatedly cuts off, kills and freezes the leader, while clients write and read
// through the other managers. No call may hang, no acknowledged write may be lost, and no read may
// be older than a write that was acknowledged before the read began. ROUNDS is the number of
// rounds, default 3.
func TestLeaderLost(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	t.Parallel()
	rounds := envNumber(t, "ROUNDS", 3)
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 3, Managers: 3, DaemonArgs: []string{"--simulated"}})
	l := newLedger(c)
	defer l.close()
	ctx, stop := context.WithCancel(c.ctx)
	var loops sync.WaitGroup
	for i := range c.hosts {
		loops.Go(func() { l.write(ctx, i) })
	}
	for i := range rounds {
		l.round([]string{"cut", "kill", "freeze"}[i%3])
		if i%10 == 9 || i == rounds-1 {
			t.Logf("%d of %d rounds: %d writes acknowledged, %d reads; %s", i+1, rounds, l.writes.Load(), l.reads.Load(), l.latencies())
		}
	}
	stop()
	loops.Wait()
	for i := range c.hosts {
		for at := range c.hosts {
			l.read(c.ctx, i, at)
		}
	}
}

// ledger records the acknowledged writes. Writer i increments a number in a label of node i.
type ledger struct {
	*testCluster
	conns   []swarmv1.ControlClient // one for each host
	closers []func() error
	acked   []atomic.Int64 // the last acknowledged number of each writer
	victim  atomic.Int32   // index of the host that a fault strikes and whose calls are not checked; -1: none
	writes  atomic.Int64
	reads   atomic.Int64

	mu   sync.Mutex // guards took
	took []time.Duration
}

func newLedger(c *testCluster) *ledger {
	c.t.Helper()
	l := &ledger{testCluster: c, acked: make([]atomic.Int64, len(c.hosts))}
	l.victim.Store(-1)
	for _, h := range c.hosts {
		conn, err := transport.DialUnix(h.Socket)
		if err != nil {
			c.t.Fatal(err)
		}
		l.conns, l.closers = append(l.conns, swarmv1.NewControlClient(conn)), append(l.closers, conn.Close)
	}
	return l
}

func (l *ledger) close() {
	for _, c := range l.closers {
		_ = c()
	}
}

// write increments the number through each manager in turn, except for one that a fault strikes,
// and reads it through the next manager.
func (l *ledger) write(ctx context.Context, i int) {
	for n, at := int64(1), i; ctx.Err() == nil; at++ {
		at %= len(l.hosts)
		if int32(at) == l.victim.Load() {
			continue
		}
		if l.timed(at, "write", func() error { return l.put(ctx, i, at, n) }) {
			l.acked[i].Store(n)
			l.writes.Add(1)
			n++
		}
		if next := (at + 1) % len(l.hosts); int32(next) != l.victim.Load() {
			l.read(ctx, i, next)
		}
	}
}

// put writes a number into the label of node i, whatever the label was.
func (l *ledger) put(ctx context.Context, i, at int, n int64) error {
	for {
		info, err := l.conns[at].GetNode(ctx, &swarmv1.GetRequest{Id: l.hosts[i].Name})
		if err != nil {
			return err
		}
		spec := info.GetNode().GetSpec().CloneVT()
		spec.Labels = map[string]string{"n": fmt.Sprint(n)}
		_, err = l.conns[at].UpdateNode(ctx, &swarmv1.UpdateNodeRequest{Id: info.GetNode().GetId(), Version: info.GetNode().GetMeta().GetVersion(), Spec: spec})
		if status.Code(err) != codes.Aborted {
			return err
		}
	}
}

// read fails the test if the answer is older than the number that was acknowledged before the read
// began.
func (l *ledger) read(ctx context.Context, i, at int) {
	want := l.acked[i].Load()
	var info *swarmv1.NodeInfo
	if !l.timed(at, "read", func() (err error) {
		info, err = l.conns[at].GetNode(ctx, &swarmv1.GetRequest{Id: l.hosts[i].Name})
		return err
	}) {
		return
	}
	l.reads.Add(1)
	got, _ := strconv.ParseInt(info.GetNode().GetSpec().GetLabels()["n"], 10, 64)
	if got < want {
		l.t.Errorf("stale read at %s: got %d, want at least the acknowledged %d", l.hosts[at].Name, got, want)
	}
}

// timed reports whether a call succeeded, and fails the test if the call took longer than promptly.
// It does not check calls to a host that a fault strikes meanwhile.
func (l *ledger) timed(at int, what string, call func() error) bool {
	began := time.Now()
	err := call()
	took := time.Since(began)
	if int32(at) == l.victim.Load() {
		return err == nil
	}
	if took > promptly {
		l.t.Errorf("a %s through %s took %s (%v), want at most %s", what, l.hosts[at].Name, took, err, promptly)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = append(l.took, took)
	return err == nil
}

func (l *ledger) latencies() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.took)
	n := len(l.took)
	return fmt.Sprintf("calls p50 %s, p99 %s, max %s", l.took[n/2], l.took[n*99/100], l.took[n-1])
}

// round makes the leader fail, waits until writes succeed through the next leader, and restores the
// former leader.
func (l *ledger) round(fault string) {
	l.t.Helper()
	at := l.leads()
	h := l.hosts[at]
	l.victim.Store(int32(at))
	<-time.After(200 * time.Millisecond) // Calls to that host end meanwhile.
	before := l.writes.Load()
	var heal func()
	var late sync.WaitGroup
	switch fault {
	case "cut":
		l.must(l.playground.Cut(dev.Cut{Hosts: []string{h.Name}}))
		heal = func() { l.must(l.playground.Heal(h.Name)) }
	case "kill":
		l.must(l.playground.Kill(l.ctx, h.Name))
		heal = func() { l.start(h) }
	case "freeze":
		pid := l.daemonOf(h)
		l.must(syscall.Kill(pid, syscall.SIGSTOP))
		heal = func() { l.must(syscall.Kill(pid, syscall.SIGCONT)) }
	}
	l.eventually("writes go on without "+h.Name, func() error {
		if n := l.writes.Load() - before; n < 20 {
			return fmt.Errorf("%d writes after the %s", n, fault)
		}
		return nil
	})
	if fault == "freeze" {
		// The former leader answers these reads when it resumes. The answers must not be stale.
		for i := range l.hosts {
			late.Go(func() { l.read(l.ctx, i, at) })
		}
		<-time.After(16 * time.Second)
	}
	heal()
	late.Wait()
	l.eventually(h.Name+" takes part again", func() error {
		ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
		defer cancel()
		info, err := l.conns[(at+1)%len(l.conns)].GetNode(ctx, &swarmv1.GetRequest{Id: h.Name})
		if err != nil {
			return err
		}
		if got := info.GetManagerStatus().GetReachability(); got != swarmv1.ManagerStatus_REACHABLE {
			return fmt.Errorf("reachability: got %s, want reachable", got)
		}
		_, err = l.conns[at].GetNode(ctx, &swarmv1.GetRequest{Id: h.Name})
		return err
	})
	l.victim.Store(-1)
}

// leads returns the index of the leader's host.
func (l *ledger) leads() (at int) {
	l.t.Helper()
	l.eventually("a leader", func() error {
		all, err := l.conns[0].ListNodes(l.ctx, &swarmv1.ListRequest{})
		if err != nil {
			return err
		}
		for _, n := range all.GetNodes() {
			if n.GetManagerStatus().GetLeader() {
				at = slices.IndexFunc(l.hosts, func(h dev.Host) bool { return h.Name == n.GetNode().GetHostname() })
				return nil
			}
		}
		return fmt.Errorf("none of %d nodes leads", len(all.GetNodes()))
	})
	return at
}

func (l *ledger) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

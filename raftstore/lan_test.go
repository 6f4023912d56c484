package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// lan connects members in one process: pipes carry Raft, and direct calls carry its RPCs. Links can
// be cut.
type lan struct {
	mu      sync.Mutex // guards the rest
	members map[string]*member
	cut     map[[2]string]bool
	conns   map[[2]string][]net.Conn
	frozen  string // a member that accepts calls and never answers
	lose    int    // every lose-th reply to Propose is lost; 0: none
	replies int
}

type member struct {
	*raftstore.Store
	id       string
	accept   chan net.Conn
	done     chan struct{}
	stopRun  context.CancelFunc
	runErr   chan error
	stopOnce sync.Once
}

func newLAN() *lan {
	return &lan{members: make(map[string]*member), cut: make(map[[2]string]bool), conns: make(map[[2]string][]net.Conn)}
}

var errUnreachable = errors.New("unreachable")

func (l *lan) find(from, to string) (*member, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.members[to]
	if m == nil || l.cut[[2]string{from, to}] || l.cut[[2]string{to, from}] {
		return nil, errUnreachable
	}
	return m, nil
}

func (l *lan) freeze(id string) {
	l.mu.Lock()
	l.frozen = id
	l.mu.Unlock()
	l.setCut(id, true)
}

func (l *lan) isFrozen(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.frozen == id
}

// setCut cuts or restores the links between a member and all others.
func (l *lan) setCut(id string, cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for other := range l.members {
		if other == id {
			continue
		}
		l.cut[[2]string{id, other}] = cut
		for _, pair := range [][2]string{{id, other}, {other, id}} {
			for _, c := range l.conns[pair] {
				_ = c.Close()
			}
			delete(l.conns, pair)
		}
	}
}

type listener struct{ m *member }

func (l listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.m.accept:
		return c, nil
	case <-l.m.done:
		return nil, net.ErrClosed
	}
}

func (l listener) Close() error {
	l.m.stopOnce.Do(func() { close(l.m.done) })
	return nil
}
func (l listener) Addr() net.Addr { return &net.IPAddr{} }

// loopback calls another member's service directly.
type loopback struct {
	lan      *lan
	from, to string
}

func (c loopback) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	if c.lan.isFrozen(c.to) {
		<-ctx.Done()
		return ctx.Err()
	}
	m, err := c.lan.find(c.from, c.to)
	if err != nil {
		return err
	}
	var out proto.Message
	switch in := args.(type) {
	case *swarmv1.ProposeRequest:
		out, err = m.Service().Propose(ctx, in)
	case *swarmv1.ReadIndexRequest:
		out, err = m.Service().ReadIndex(ctx, in)
	case *swarmv1.AppliedRequest:
		out, err = m.Service().Applied(ctx, in)
	case *swarmv1.ConfigureRequest:
		out, err = m.Service().Configure(ctx, in)
	default:
		err = fmt.Errorf("no such method: %s", method)
	}
	if err == nil && c.lan.losesReply(args) {
		return errUnreachable
	}
	if err == nil {
		proto.Merge(reply.(proto.Message), out)
	}
	return err
}

func (l *lan) losesReply(args any) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := args.(*swarmv1.ProposeRequest); !ok || l.lose == 0 {
		return false
	}
	l.replies++
	return l.replies%l.lose == 0
}

func (c loopback) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.ErrUnsupported
}

// start opens a member and runs it until stop or the end of the test.
func (l *lan) start(tb testing.TB, cfg raftstore.Config, edit ...func(*raftstore.Deps)) *member {
	tb.Helper()
	m := &member{id: cfg.NodeID, accept: make(chan net.Conn), done: make(chan struct{}), runErr: make(chan error, 1)}
	deps := raftstore.Deps{
		Listener: listener{m},
		Dial:     func(ctx context.Context, to string) (net.Conn, error) { return l.dial(ctx, m.id, to) },
		Conn:     func(to string) (grpc.ClientConnInterface, error) { return loopback{l, m.id, to}, nil },
	}
	if os.Getenv("SWARM_TEST_LOG") != "" {
		deps.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("member", m.id)
	}
	for _, e := range edit {
		e(&deps)
	}
	s, err := raftstore.Open(cfg, deps)
	if err != nil {
		tb.Fatal(err)
	}
	m.Store = s
	l.mu.Lock()
	l.members[m.id] = m
	l.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	m.stopRun = cancel
	go func() { m.runErr <- s.Run(ctx) }()
	tb.Cleanup(func() { _ = l.stop(m) })
	return m
}

func (l *lan) dial(ctx context.Context, from, to string) (net.Conn, error) {
	m, err := l.find(from, to)
	if err != nil {
		return nil, err
	}
	here, there := net.Pipe()
	select {
	case m.accept <- there:
	case <-m.done:
		return nil, errUnreachable
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[[2]string{from, to}] = append(l.conns[[2]string{from, to}], here, there)
	return here, nil
}

// stop shuts a member down cleanly and returns the error of Run.
func (l *lan) stop(m *member) error {
	l.mu.Lock()
	running := l.members[m.id] == m
	if running {
		defer func() {
			l.mu.Lock()
			delete(l.members, m.id)
			l.mu.Unlock()
		}()
	}
	l.mu.Unlock()
	if !running {
		return nil
	}
	_ = m.Close()
	m.stopRun()
	return <-m.runErr
}

// crash isolates a member before it stops it, so that it cannot hand over leadership.
func (l *lan) crash(m *member) {
	l.setCut(m.id, true)
	_ = l.stop(m)
	l.setCut(m.id, false)
}

func (m *member) awaitLead(tb testing.TB) {
	tb.Helper()
	for {
		moved := m.LeaderChanged()
		if m.IsLeader() {
			return
		}
		select {
		case <-moved:
		case <-time.After(time.Minute):
			tb.Fatalf("%s does not lead", m.id)
		}
	}
}

// trio starts three members; m1 leads.
func (l *lan) trio(tb testing.TB, cfg raftstore.Config) []*member {
	tb.Helper()
	var out []*member
	for i := range 3 {
		c := cfg
		c.NodeID, c.Bootstrap = fmt.Sprintf("m%d", i+1), i == 0
		if c.Dir != "" {
			c.Dir = filepath.Join(c.Dir, c.NodeID)
		}
		m := l.start(tb, c)
		out = append(out, m)
		if i == 0 {
			m.awaitLead(tb)
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := out[0].AddVoter(ctx, m.id); err != nil {
			tb.Fatal(err)
		}
		cancel()
	}
	for _, m := range out {
		m.awaitVoters(tb, len(out))
	}
	return out
}

// awaitVoters waits until the member knows n voters. A member that is cut off earlier refuses to
// vote for members that it does not know, so there would be no majority without the leader.
func (m *member) awaitVoters(tb testing.TB, n int) {
	tb.Helper()
	timeout := time.After(time.Minute)
	for {
		voters := 0
		for _, s := range m.Servers() {
			if s.Voter {
				voters++
			}
		}
		if voters == n {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-timeout:
			tb.Fatalf("%s knows %d voters, want %d", m.id, voters, n)
		}
	}
}

// leaderOf waits until one of the members leads.
func leaderOf(tb testing.TB, ms ...*member) *member {
	tb.Helper()
	timeout := time.After(time.Minute)
	for {
		moved := ms[0].LeaderChanged()
		for _, m := range ms {
			if m.IsLeader() {
				return m
			}
		}
		select {
		case <-moved:
		case <-time.After(10 * time.Millisecond):
		case <-timeout:
			tb.Fatal("nobody leads")
		}
	}
}

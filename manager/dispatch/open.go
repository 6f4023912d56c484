package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/bounds"
	"swarm/internal/transport"
	"swarm/manager/ca"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

const (
	// openPatience bounds what a session's start waits for: the leader, and this replica to catch up with it.
	openPatience = 5 * time.Second
	openAttempts = 8
	// opensBurst and opensPeriod bound how often one node may open a session, each of which is a write of the leader's.
	opensBurst  = 20
	opensPeriod = time.Second
)

// errRemoved tells a host that it is no node any more; Session says so in the stream too.
var errRemoved = errdefs.ErrPermissionDenied.WithMessage("this node was removed from the cluster: run `swarm join` to join again")

func callerID(ctx context.Context) string {
	who, err := transport.FromContext(ctx)
	if err != nil {
		return ""
	}
	return who.NodeID()
}

// Session serves one worker for as long as both want.
func (s *Server) Session(stream swarmv1.Dispatcher_SessionServer) error {
	ctx := stream.Context()
	id := callerID(ctx)
	if id == "" {
		return errdefs.ErrPermissionDenied.WithMessage("only a node can open a session")
	}
	x, err := s.greet(ctx, id, stream)
	if errors.Is(err, errRemoved) {
		_ = stream.Send(&swarmv1.ToWorker{Message: &swarmv1.ToWorker_Node{Node: &swarmv1.NodeUpdate{Removed: true}}})
	}
	if err != nil {
		s.sampled.Log(slog.LevelInfo, "refused "+id, "session refused", "node", id, "err", err)
		return err
	}
	cluster := s.deps.Store.View().Cluster()
	_, x.patience = Pace(cluster)
	x.lease = min(x.lease, x.patience)
	if err := s.begin(x); err != nil {
		return err
	}
	defer s.finish(x)
	err = x.serve(ctx, welcome(s.cfg.NodeID, x, cluster))
	x.close(err)
	return err
}

// greet reads the hello and opens the session. The node is judged before: if it was removed, it
// learns so whatever the size of its hello.
func (s *Server) greet(ctx context.Context, id string, stream swarmv1.Dispatcher_SessionServer) (*session, error) {
	view, err := s.known(ctx, id)
	if err != nil {
		return nil, err
	}
	hello, err := readHello(stream)
	if err != nil {
		return nil, err
	}
	return s.open(ctx, id, view, hello, stream)
}

// known returns a view in which the node is a member, as often as nodes may open sessions.
func (s *Server) known(ctx context.Context, id string) (*raftstore.View, error) {
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	who, err := transport.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	if wait := s.opens.Take(ca.PaceOf(s.deps.Store.View(), who.Peer)); wait > 0 {
		return nil, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("node %s opens sessions too often: try again in %s", id, wait.Round(time.Millisecond)))
	}
	view, err := s.fresh(ctx, id)
	if err != nil {
		return nil, err
	}
	if _, ok := view.Nodes.Get(id); !ok {
		return nil, errRemoved
	}
	return view, nil
}

// readHello reads the first message of a session.
func readHello(stream swarmv1.Dispatcher_SessionServer) (*swarmv1.Hello, error) {
	msg, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if hello := msg.GetHello(); hello != nil {
		return hello, nil
	}
	return nil, errdefs.ErrInvalidArgument.WithMessage("the first message of a session is a hello")
}

// open judges by a view in which the node is a member whether the session may start, and says in
// the store that it does. A node that is removed meanwhile is refused by the store.
func (s *Server) open(ctx context.Context, id string, view *raftstore.View, hello *swarmv1.Hello, stream swarmv1.Dispatcher_SessionServer) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	node, _ := view.Nodes.Get(id)
	if index, seen := view.Index(), hello.GetSeenIndex(); index < seen {
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
			"the node has seen a newer state (index %d) than this cluster has (%d): was the cluster restored from an older snapshot? run `swarm leave --force` on the node and join again", seen, index))
	}
	hello, left := bounds.Hello(hello, node.GetHostname())
	s.leftOut(id, left)
	if err := s.checkKey(ctx, node); err != nil {
		return nil, err
	}
	if e := view.Cluster().GetEpoch(); hello.GetEpoch() != 0 && hello.GetEpoch() != e {
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
			"the cluster was recreated (epoch %d, the node knows %d): run `swarm leave --force` on the node and join again", e, hello.GetEpoch()))
	}
	addr := hostOf(ctx, node, hello)
	if node.GetMachineId() != "" && hello.GetMachineId() != node.GetMachineId() {
		return nil, cloned(id, fmt.Sprintf("%s at %s", node.GetHostname(), node.GetAddr()))
	}
	if err := s.refuseClone(ctx, id, addr); err != nil {
		return nil, err
	}
	if err := s.move(ctx, id, hello); err != nil {
		return nil, err
	}
	row, err := s.record(ctx, id, addr, hello)
	if err != nil {
		return nil, err
	}
	return newSession(s, row, stream), nil
}

// checkKey refuses a node whose certificate newer ones have replaced. One that uses the newest has received it: the key
// before is forgotten.
func (s *Server) checkKey(ctx context.Context, node *swarmv1.Node) error {
	who, err := transport.FromContext(ctx)
	if err != nil {
		return err
	}
	if err := ca.CheckKey(node, who.Peer); err != nil {
		return err
	}
	if err := ca.Seen(ctx, s.deps.Store, who.Peer); err != nil {
		return fmt.Errorf("note the newest key of node %s: %w", node.GetId(), err)
	}
	return nil
}

// fresh is a view that holds all that the leader had committed, so that neither a node that has
// just joined is unknown here, nor one that was removed known; and so all that the worker has seen
// before it called. Those that are unknown here share one question to the leader a second: a host
// that was removed may ask without end.
func (s *Server) fresh(ctx context.Context, id string) (*raftstore.View, error) {
	view, err := s.refresh.ViewFor(ctx, id)
	if err != nil {
		return nil, err
	}
	if view.Cluster() == nil {
		return nil, errdefs.ErrUnavailable.WithMessage("the cluster is being created: try again")
	}
	return view, nil
}

func cloned(id, where string) error {
	return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf(
		"node id %s is already in use by %s (a cloned disk?): run `swarm leave --force` on one", id, where))
}

// hostOf is the host that a worker speaks from. A manager's own worker comes through the loopback or no network at all:
// then its address is the node's.
func hostOf(ctx context.Context, node *swarmv1.Node, hello *swarmv1.Hello) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		host, _, err := net.SplitHostPort(p.Addr.String())
		if ip := net.ParseIP(host); err == nil && ip != nil && !ip.IsLoopback() {
			return ip.String()
		}
	}
	if hello.GetAddr() != "" {
		return hello.GetAddr()
	}
	return node.GetAddr()
}

// refuseClone refuses a second host with the same id while the first is heard, here or by another manager. The same host
// may always begin anew: its old stream may be dead without our knowing.
func (s *Server) refuseClone(ctx context.Context, id, addr string) error {
	beat, _ := Pace(s.deps.Store.View().Cluster())
	s.mu.Lock()
	old := s.sessions[id]
	s.mu.Unlock()
	if old != nil && old.addr != addr && time.Since(old.lastBeat()) < missedBeats*beat {
		return cloned(id, "a host at "+old.addr)
	}
	ack, err := s.askLeader(ctx, &swarmv1.SessionReport{ManagerId: s.cfg.NodeID, Opening: &swarmv1.SessionEntry{NodeId: id, Addr: addr}})
	if err != nil {
		return fmt.Errorf("ask the leader for node %s: %w", id, err)
	}
	if ack.GetRefused() != "" {
		return errdefs.ErrAlreadyExists.WithMessage(ack.GetRefused())
	}
	return nil
}

// record commits the start of a session and returns the node's row.
func (s *Server) record(ctx context.Context, id, addr string, hello *swarmv1.Hello) (*swarmv1.NodeState, error) {
	view := s.deps.Store.View()
	for range openAttempts {
		old, ok := present(view.NodeStates.Get(id))
		next := old.CloneVT()
		change := raftstore.Update
		if !ok {
			next, change = &swarmv1.NodeState{NodeId: id}, raftstore.Create
		}
		if next.State != swarmv1.NodeState_READY {
			next.Since = timestamppb.Now()
		}
		_, lease := Pace(view.Cluster())
		if !old.GetFenced() { // What an earlier session was granted has not run out for certain.
			lease = max(lease, old.GetLease().AsDuration())
		}
		next.Lease = durationpb.New(lease)
		next.SessionEpoch++
		next.State, next.Message, next.Addr, next.Fenced = swarmv1.NodeState_READY, "", addr, false
		if hello.GetDescription() != nil {
			next.Description = hello.GetDescription()
		}
		_, err := s.deps.Store.Commit(ctx, "node "+id, change(next))
		switch {
		case err == nil:
			return next, nil
		case errdefs.IsNotFound(err):
			return nil, errRemoved
		case !errdefs.IsAborted(err) && !errdefs.IsConflict(err) && !errdefs.IsAlreadyExists(err):
			return nil, fmt.Errorf("record session of node %s: %w", id, err)
		}
		if view, err = s.fresh(ctx, id); err != nil {
			return nil, err
		}
	}
	return nil, errdefs.ErrUnavailable.WithMessage("record session of node " + id + ": its state keeps changing: try again")
}

// begin makes the session the node's, in place of an older one, and starts to receive.
func (s *Server) begin(x *session) error {
	s.mu.Lock()
	old := s.sessions[x.node]
	switch {
	case s.stopped:
		s.mu.Unlock()
		return errdefs.ErrUnavailable.WithMessage("this manager is stopping: another one takes over")
	case old != nil && old.epoch > x.epoch:
		s.mu.Unlock()
		return errSuperseded
	}
	s.sessions[x.node] = x
	delete(s.ended, x.node)
	s.receive.Add(1)
	s.mu.Unlock()
	if old != nil {
		old.close(errSuperseded)
	}
	// Registered first, viewed second: what changes in between marks the session, or ends it.
	view := s.deps.Store.View()
	x.markAll(view)
	if _, ok := view.Nodes.Get(x.node); !ok {
		x.close(errRemoved)
	}
	go func() {
		defer s.receive.Done()
		x.receive()
	}()
	s.note(x.node, "session begins", "node", x.node, "addr", x.addr, "epoch", x.epoch)
	s.tellNow()
	return nil
}

var errSuperseded = errdefs.ErrAborted.WithMessage("a newer session of this node has begun")

// finish takes the session off the books; how it ended is evidence. When it ended is none: a connection that a firewall
// cuts breaks after a while, when the node has not been heard for as long already.
func (s *Server) finish(x *session) {
	broken := errors.Is(x.reason(), errBroken)
	s.mu.Lock()
	if s.sessions[x.node] == x {
		delete(s.sessions, x.node)
		s.ended[x.node] = ending{epoch: x.epoch, heard: x.lastBeat(), addr: x.addr, broken: broken, departing: x.departing()}
	}
	s.mu.Unlock()
	s.note(x.node, "session ends", "node", x.node, "epoch", x.epoch, "err", x.reason())
	s.tellNow()
}

func (s *Server) tellNow() {
	select {
	case s.herald <- struct{}{}:
	default:
	}
	s.tracker.nudge()
}

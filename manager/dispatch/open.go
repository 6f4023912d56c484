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
	"swarm/internal/facts"
	"swarm/internal/spec"
	"swarm/internal/transport"
	"swarm/manager/ca"
	"swarm/manager/dispatch/liveness"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

const (
	// openTimeout bounds what the start of a session waits for: the leader, and this replica to
	// catch up with it.
	openTimeout  = 5 * time.Second
	openAttempts = 8
	// opensBurst and opensPeriod bound how often one node may open a session. Each session costs
	// the leader a write.
	opensBurst  = 20
	opensPeriod = time.Second
)

// callerID returns the ID of the node that calls, and "" for callers that are not nodes.
func callerID(ctx context.Context) string {
	who, err := transport.FromContext(ctx)
	if err != nil {
		return ""
	}
	return who.NodeID()
}

// Session serves one worker until either side ends the session. It returns PermissionDenied to a
// caller that is not a node of the cluster, AlreadyExists when another host with this node's ID is
// heard, FailedPrecondition when the node and the cluster do not fit each other, ResourceExhausted
// when the node opens sessions too often, and Aborted when a newer session takes its place.
func (s *Server) Session(stream swarmv1.Dispatcher_SessionServer) error {
	ctx := stream.Context()
	id := callerID(ctx)
	if id == "" {
		return errdefs.ErrPermissionDenied.WithMessage("only a node can open a session")
	}
	x, err := s.accept(ctx, id, stream)
	if errors.Is(err, errRemoved) {
		_ = stream.Send(&swarmv1.ToWorker{Message: &swarmv1.ToWorker_Node{Node: &swarmv1.NodeUpdate{Removed: true}}})
	}
	if err != nil {
		s.sampled.Log(slog.LevelInfo, "refused "+id, "session refused", "node", id, "err", err)
		return err
	}
	cluster := s.deps.Store.View().Cluster()
	_, x.timeout = paceOf(cluster)
	x.lease = min(x.lease, x.timeout)
	if err := s.register(x); err != nil {
		return err
	}
	defer s.unregister(x)
	err = x.serve(ctx, welcome(s.cfg.NodeID, x, cluster))
	x.close(err)
	return err
}

// accept checks that the node is a member, reads its hello, and opens the session. The check comes
// first, because a node that was removed must be told so even if its hello is too large to be read.
// A node that has seen newer state than this cluster has is never told that it was removed.
func (s *Server) accept(ctx context.Context, id string, stream swarmv1.Dispatcher_SessionServer) (*session, error) {
	view, notMember := s.member(ctx, id)
	if notMember != nil && !errors.Is(notMember, errRemoved) {
		return nil, notMember
	}
	hello, err := readHello(stream)
	if err == nil {
		err = checkAge(view, hello)
	}
	// A cluster that has lost state does not know a node that joined in that state. It must not
	// tell the node that it was removed, because the node would delete its membership.
	if notMember != nil && !errdefs.IsFailedPrecondition(err) {
		return nil, notMember
	}
	if err != nil {
		return nil, err
	}
	return s.openSession(ctx, id, view, hello, stream)
}

// member returns a view in which the node is a member. If the node is no member, it returns
// errRemoved and the view in which it has looked. It also fails when the node opens sessions too
// often.
func (s *Server) member(ctx context.Context, id string) (*table.View, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	who, err := transport.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	if wait := s.opens.Take(ca.RateKey(s.deps.Store.View(), who.Peer)); wait > 0 {
		return nil, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("node %s opens sessions too often: try again in %s", id, wait.Round(time.Millisecond)))
	}
	view, err := s.freshView(ctx, id)
	if err != nil {
		return nil, err
	}
	if _, ok := view.Nodes.Get(id); !ok {
		return view, errRemoved
	}
	return view, nil
}

// checkAge returns ErrFailedPrecondition if the node has seen newer state than the cluster has. The
// cluster then has lost state, or another cluster was made from an older copy of it.
func checkAge(view *table.View, hello *swarmv1.Hello) error {
	if index, seen := view.Index(), hello.GetSeenIndex(); index < seen {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
			"the node has seen a newer state (index %d) than this cluster has (%d): was the cluster restored from an older snapshot? run `swarm leave --force` on the node and join again", seen, index))
	}
	if e := view.Cluster().GetEpoch(); hello.GetEpoch() != 0 && hello.GetEpoch() != e {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
			"the cluster was recreated (epoch %d, the node knows %d): run `swarm leave --force` on the node and join again", e, hello.GetEpoch()))
	}
	return nil
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

// openSession checks whether the session may begin, and commits its start. The node is a member in
// view. If the node is removed meanwhile, the commit fails.
func (s *Server) openSession(
	ctx context.Context, id string, view *table.View, hello *swarmv1.Hello, stream swarmv1.Dispatcher_SessionServer,
) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	node, _ := view.Nodes.Get(id)
	hello, leftOut := bounds.Hello(hello, node.GetHostname())
	s.logLeftOut(id, leftOut)
	if err := s.checkKey(ctx, node); err != nil {
		return nil, err
	}
	addr := workerHost(ctx, node, hello)
	if node.GetMachineId() != "" && hello.GetMachineId() != node.GetMachineId() {
		return nil, liveness.NodeInUse(id, fmt.Sprintf("%s at %s", node.GetHostname(), node.GetAddr()))
	}
	if err := s.refuseSecondHost(ctx, id, addr); err != nil {
		return nil, err
	}
	if err := s.takeOverAddress(ctx, id, hello); err != nil {
		return nil, err
	}
	row, err := s.recordStart(ctx, id, addr, hello)
	if err != nil {
		return nil, err
	}
	return newSession(s, row, stream), nil
}

// checkKey refuses a certificate that newer ones have replaced. A node that uses its newest
// certificate has received it, so checkKey makes the cluster forget the key before it.
func (s *Server) checkKey(ctx context.Context, node *swarmv1.Node) error {
	who, err := transport.FromContext(ctx)
	if err != nil {
		return err
	}
	if err := ca.CheckKey(node, who.Peer); err != nil {
		return err
	}
	if err := ca.RecordKeyUse(ctx, s.deps.Store, who.Peer); err != nil {
		return fmt.Errorf("note the newest key of node %s: %w", node.GetId(), err)
	}
	return nil
}

// freshView returns a view that has everything that the leader had committed before the call. So
// the caller's node is in it exactly if it is a member now, and it is not older than what another
// manager has sent to the worker. Callers that are unknown here share one question to the leader in
// each second, because a host that was removed may call again and again.
func (s *Server) freshView(ctx context.Context, id string) (*table.View, error) {
	view, err := s.refresh.ViewFor(ctx, id)
	if err != nil {
		return nil, err
	}
	if view.Cluster() == nil {
		return nil, errdefs.ErrUnavailable.WithMessage("the cluster is being created: try again")
	}
	return view, nil
}

// workerHost returns the address of the host from which a worker calls. The worker of this
// manager's own daemon calls through the loopback or without a network. For that worker it returns
// the address in the hello, or else the address in the node's row.
func workerHost(ctx context.Context, node *swarmv1.Node, hello *swarmv1.Hello) string {
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

// refuseSecondHost returns AlreadyExists if another host with the same node ID is heard, by this
// manager or by another one. The same host may always begin a new session, because its old
// connection may be dead although this manager does not know that yet.
func (s *Server) refuseSecondHost(ctx context.Context, id, addr string) error {
	beat, _ := s.pace()
	s.mu.Lock()
	old := s.sessions[id]
	s.mu.Unlock()
	if old != nil && old.addr != addr && time.Since(old.lastHeard()) < spec.MissedHeartbeats*beat {
		return liveness.NodeInUse(id, "a host at "+old.addr)
	}
	ack, err := s.sendReport(ctx, &swarmv1.SessionReport{ManagerId: s.cfg.NodeID, Opening: &swarmv1.SessionEntry{NodeId: id, Addr: addr}})
	if err != nil {
		return fmt.Errorf("ask the leader for node %s: %w", id, err)
	}
	if ack.GetRefused() != "" {
		return errdefs.ErrAlreadyExists.WithMessage(ack.GetRefused())
	}
	return nil
}

// recordStart commits the start of a session and returns the node's row.
func (s *Server) recordStart(ctx context.Context, id, addr string, hello *swarmv1.Hello) (*swarmv1.NodeState, error) {
	view := s.deps.Store.View()
	for range openAttempts {
		old, ok := view.NodeStates.Get(id)
		next := old.CloneVT()
		change := table.Update
		if !ok {
			next, change = &swarmv1.NodeState{NodeId: id}, table.Create
		}
		if next.State != swarmv1.NodeState_READY {
			next.Since = timestamppb.Now()
		}
		_, timeout := paceOf(view.Cluster())
		next.Lease = durationpb.New(timeout) // a lease is as long as the session timeout
		if !old.GetFenced() {                // a longer lease of an earlier session may not have run out yet
			next.Lease = durationpb.New(max(timeout, old.GetLease().AsDuration()))
		}
		describe(next, hello.GetDescription())
		next.SessionEpoch++
		next.State, next.Message, next.Addr, next.Fenced = swarmv1.NodeState_READY, "", addr, false
		_, err := s.deps.Store.Commit(ctx, "node "+id, change(next))
		switch {
		case err == nil:
			return next, nil
		case errdefs.IsNotFound(err):
			return nil, errRemoved
		case !errdefs.IsAborted(err) && !errdefs.IsAlreadyExists(err):
			return nil, fmt.Errorf("record session of node %s: %w", id, err)
		}
		if view, err = s.freshView(ctx, id); err != nil {
			return nil, err
		}
	}
	return nil, errdefs.ErrUnavailable.WithMessage("record session of node " + id + ": its state keeps changing: try again")
}

// describe writes what a hello says of the node. The first session of a node fixes what draws tasks
// to it. So a host that joins with a token chooses these values once, and an operator sees them
// from then on. A hello without a description changes nothing.
func describe(next *swarmv1.NodeState, reported *swarmv1.NodeDescription) {
	switch {
	case reported == nil:
	case next.GetSessionEpoch() == 0:
		next.Description = reported
	default:
		next.Description, next.Pending = facts.Hold(next.GetDescription(), reported)
	}
}

// register makes x the session of its node, closes an older one, and starts to receive.
func (s *Server) register(x *session) error {
	s.mu.Lock()
	old := s.sessions[x.node]
	switch {
	case s.stopped:
		s.mu.Unlock()
		return errStopping
	case old != nil && old.epoch > x.epoch:
		s.mu.Unlock()
		return errSuperseded
	}
	s.sessions[x.node] = x
	delete(s.ended, x.node)
	s.receivers.Add(1)
	s.mu.Unlock()
	if old != nil {
		old.close(errSuperseded)
	}
	// The session takes its view after it is registered. So a change that is newer than the view
	// marks or ends the session.
	view := s.deps.Store.View()
	x.markAll(view)
	if _, ok := view.Nodes.Get(x.node); !ok {
		x.close(errRemoved)
	}
	go func() {
		defer s.receivers.Done()
		x.receive()
	}()
	s.note(x.node, "session begins", "node", x.node, "addr", x.addr, "epoch", x.epoch)
	s.reportSoon()
	return nil
}

// unregister removes the session and keeps how it ended, because that is evidence of whether the
// node is up. It keeps the time when the node was last heard and not the time of the end: when a
// firewall cuts a connection, the connection breaks only some time after the last message.
func (s *Server) unregister(x *session) {
	broken := errors.Is(x.reason(), errBroken)
	s.mu.Lock()
	if s.sessions[x.node] == x {
		delete(s.sessions, x.node)
		s.ended[x.node] = endedSession{epoch: x.epoch, heard: x.lastHeard(), addr: x.addr, broken: broken, departing: x.isDeparting()}
	}
	s.mu.Unlock()
	s.note(x.node, "session ends", "node", x.node, "epoch", x.epoch, "err", x.reason())
	s.reportSoon()
}

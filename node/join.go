package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/pause"
	"swarm/internal/pki"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// Join makes this node a member of the cluster that the token belongs to.
func (n *Node) Join(ctx context.Context, req *swarmv1.JoinClusterRequest) (*swarmv1.JoinClusterResponse, error) {
	if err := n.enter(); err != nil {
		return nil, err
	}
	defer n.operation.Unlock()
	token, err := pki.ParseToken(req.Token)
	if err != nil {
		return nil, err
	}
	if len(req.RemoteAddrs) == 0 {
		return nil, invalid("name the address of a manager: swarm join --token TOKEN HOST:PORT")
	}
	state, err := n.place(req.AdvertiseAddr, req.ListenAddr, req.DataPathAddr, 0)
	if err != nil {
		return nil, err
	}
	ln, err := listen(state)
	if err != nil {
		return nil, err
	}
	m, err := n.admitted(ctx, req, token, state, func(s Membership, cred pki.Credential, bundle *pki.Bundle) (*member, error) {
		return n.newMember(s, cred, bundle, ln, nil)
	})
	if err != nil {
		_ = ln.Close()
		return nil, err
	}
	if err := n.start(ctx, m); err != nil {
		return nil, err
	}
	response := &swarmv1.JoinClusterResponse{NodeId: m.remembered().NodeID}
	if m.remembered().Manager {
		response.Role = swarmv1.NodeSpec_MANAGER
	}
	return response, nil
}

// admitted asks the managers for admission, one after the other, and remembers the membership.
func (n *Node) admitted(ctx context.Context, req *swarmv1.JoinClusterRequest, token pki.Token, state Membership, build func(Membership, pki.Credential, *pki.Bundle) (*member, error)) (*member, error) {
	key, csr, err := newKey()
	if err != nil {
		return nil, err
	}
	answer, err := n.ask(ctx, req, token, state, &swarmv1.JoinRequest{
		Csr: csr, MachineId: n.cfg.MachineID, Hostname: n.cfg.Hostname, Addr: state.Addr,
		Port: uint32(state.Port), DataPathAddr: state.DataPathAddr, Availability: req.Availability, Build: n.cfg.Version.GetBuild(),
	})
	if err != nil {
		return nil, err
	}
	state.NodeID, state.ClusterID = answer.NodeId, answer.ClusterId
	state.Manager = answer.Role == swarmv1.NodeSpec_MANAGER
	state.Managers = peersOf(answer.Managers)
	state.GossipKeys = gossipKeys(answer.GossipKeys)
	if p := answer.Network.GetGossipPort(); p != 0 {
		state.GossipPort = uint16(p)
	}
	state.DataPathPort = uint16(answer.Network.GetDataPathPort())
	cred, bundle, err := n.remember(&state, answer.Certificate, answer.Bundle, key)
	if err != nil {
		return nil, n.undo(err)
	}
	m, err := build(state, cred, bundle)
	if err != nil {
		return nil, n.undo(err)
	}
	return m, nil
}

const (
	// joinPatience is for how long a join is tried again after a manager was reached and did not
	// answer: it serves few hosts of one origin at once, or its cluster has no leader at the
	// moment. The pauses double from the first to the last.
	joinPatience            = 30 * time.Second
	joinPause, maxJoinPause = 250 * time.Millisecond, 4 * time.Second
)

// ask sends the request to the managers until one has answered. A refusal is final.
func (n *Node) ask(ctx context.Context, how *swarmv1.JoinClusterRequest, token pki.Token, state Membership, req *swarmv1.JoinRequest) (*swarmv1.JoinResponse, error) {
	began := time.Now()
	for wait := joinPause; ; wait = min(2*wait, maxJoinPause) {
		answer, again, err := n.askEach(ctx, how, token, state, req)
		if err == nil || !again || time.Since(began) > joinPatience {
			return answer, err
		}
		n.deps.Log.Warn("the join is tried again", "err", err)
		if pause.For(ctx, wait/2+rand.N(wait)) != nil {
			return nil, err
		}
	}
}

// askEach sends the request to the first manager that proves to be of the token's cluster. A
// manager that cannot be reached is not the last. again reports whether one was reached and did not
// answer.
func (n *Node) askEach(ctx context.Context, how *swarmv1.JoinClusterRequest, token pki.Token, state Membership, req *swarmv1.JoinRequest) (answer *swarmv1.JoinResponse, again bool, err error) {
	var lastErr error
	for _, given := range how.RemoteAddrs {
		host, port, err := splitPort(given, DefaultPort)
		if err != nil || host == "" {
			return nil, false, invalid("manager address %q: want HOST or HOST:PORT", given)
		}
		addr := Peer{Addr: host, Port: port}.HostPort()
		answer, cut, err := n.askAt(ctx, addr, how, token, state, req)
		if err == nil {
			return answer, false, nil
		}
		lastErr = fmt.Errorf("join through %s: %w", addr, err)
		if !cut && !errdefs.IsUnavailable(err) {
			return nil, false, lastErr
		}
		again = again || cut
	}
	return nil, again, lastErr
}

// askAt tries the ways to and from one manager, unless that is not wanted, and asks it. cut reports
// whether the manager was reached and has not answered.
func (n *Node) askAt(ctx context.Context, addr string, how *swarmv1.JoinClusterRequest, token pki.Token, state Membership, req *swarmv1.JoinRequest) (answer *swarmv1.JoinResponse, cut bool, err error) {
	found, err := transport.PinnedBootstrap(ctx, addr, token, time.Now())
	if err != nil {
		return nil, errdefs.IsAborted(err), err
	}
	identity, err := transport.NewIdentity(pki.Credential{}, found.Bundle, time.Now)
	if err != nil {
		return nil, false, err
	}
	dialer := transport.NewDialer(identity, nil)
	defer dialer.Close()
	source, _ := netip.ParseAddr(state.Addr) // was parsed by place
	conn := dialer.DialAddrFrom(source, addr)
	defer conn.Close()
	proving := transport.Proving(conn, token)
	if !how.SkipNetworkCheck {
		if err := n.checkWays(ctx, proving, state); err != nil {
			return nil, false, err
		}
	}
	answer, err = swarmv1.NewCAClient(proving).Join(ctx, req)
	return answer, errdefs.IsUnavailable(err), err
}

// checkWays refuses a host that could be a member only in part. A manager that cannot try the ways
// is no reason: whatever ails it, the join itself says.
func (n *Node) checkWays(ctx context.Context, conn grpc.ClientConnInterface, state Membership) error {
	if n.deps.CheckWays == nil {
		return nil
	}
	err := n.deps.CheckWays(ctx, conn, state)
	if errdefs.IsUnavailable(err) || errdefs.IsNotImplemented(err) || errdefs.IsDeadlineExceeded(err) {
		n.deps.Log.Warn("the ways to the cluster could not be tried", "err", err)
		return nil
	}
	return err
}

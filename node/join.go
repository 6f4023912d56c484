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

// Join implements the Daemon service: it makes this host a member of the cluster to which the token
// belongs. It returns when a manager has accepted the node's session, and for a manager when it is
// a voter. If the managers do not admit the host, nothing is left on disk.
func (n *Node) Join(ctx context.Context, req *swarmv1.JoinClusterRequest) (*swarmv1.JoinClusterResponse, error) {
	if err := n.beginJoin(); err != nil {
		return nil, err
	}
	defer n.operation.Unlock()
	token, err := pki.ParseToken(req.Token)
	if err != nil {
		return nil, err
	}
	if len(req.RemoteAddrs) == 0 {
		return nil, invalid("give the address of a manager: swarm join --token TOKEN HOST:PORT")
	}
	state, err := n.resolveAddresses(req.AdvertiseAddr, req.ListenAddr, req.DataPathAddr, 0)
	if err != nil {
		return nil, err
	}
	ln, err := listen(state)
	if err != nil {
		return nil, err
	}
	cred, bundle, err := n.requestAdmission(ctx, req, token, &state)
	if err != nil {
		_ = ln.Close()
		return nil, err
	}
	m, err := n.newMember(state, cred, bundle, ln, nil)
	if err != nil {
		return nil, n.forgetFailed(err)
	}
	if err := n.start(ctx, m); err != nil {
		return nil, err
	}
	response := &swarmv1.JoinClusterResponse{NodeId: m.membership().NodeID}
	if m.membership().Manager {
		response.Role = swarmv1.NodeSpec_MANAGER
	}
	return response, nil
}

// requestAdmission asks the managers to admit this host, adds their answer to state, and stores the
// membership.
func (n *Node) requestAdmission(ctx context.Context, req *swarmv1.JoinClusterRequest, token pki.Token, state *Membership) (pki.Credential, *pki.Bundle, error) {
	key, csr, err := newKey()
	if err != nil {
		return pki.Credential{}, nil, err
	}
	answer, err := n.requestJoin(ctx, req, token, *state, &swarmv1.JoinRequest{
		Csr: csr, MachineId: n.cfg.MachineID, Hostname: n.cfg.Hostname, Addr: state.Addr,
		Port: uint32(state.Port), DataPathAddr: state.DataPathAddr, Availability: req.Availability, Build: n.cfg.Version.GetBuild(),
	})
	if err != nil {
		return pki.Credential{}, nil, err
	}
	state.NodeID, state.ClusterID = answer.NodeId, answer.ClusterId
	state.Manager = answer.Role == swarmv1.NodeSpec_MANAGER
	state.Managers = peersOf(answer.Managers)
	state.GossipKeys = gossipKeys(answer.GossipKeys)
	if p := answer.Network.GetGossipPort(); p != 0 {
		state.GossipPort = uint16(p)
	}
	state.DataPathPort = uint16(answer.Network.GetDataPathPort())
	cred, bundle, err := n.saveMembership(state, answer.Certificate, answer.Bundle, key)
	if err != nil {
		return cred, nil, n.forgetFailed(err)
	}
	return cred, bundle, nil
}

const (
	// joinRetryTimeout is how long Join repeats the request if a manager was reached and did not
	// answer. The manager may be busy, because it serves only a few hosts of one network at a time,
	// or the cluster may have no leader at the moment. The pauses double from joinBackoffMin to
	// joinBackoffMax.
	joinRetryTimeout               = 30 * time.Second
	joinBackoffMin, joinBackoffMax = 250 * time.Millisecond, 4 * time.Second
)

// requestJoin sends the request to the managers until one has answered. If a manager refuses the
// request, requestJoin returns the refusal.
func (n *Node) requestJoin(ctx context.Context, how *swarmv1.JoinClusterRequest, token pki.Token, state Membership, req *swarmv1.JoinRequest) (*swarmv1.JoinResponse, error) {
	began := time.Now()
	for wait := joinBackoffMin; ; wait = min(2*wait, joinBackoffMax) {
		answer, retry, err := n.tryManagers(ctx, how, token, state, req)
		if err == nil || !retry || time.Since(began) > joinRetryTimeout {
			return answer, err
		}
		n.deps.Log.Warn("a manager did not answer the join request: trying again", "err", err)
		if pause.For(ctx, wait/2+rand.N(wait)) != nil {
			return nil, err
		}
	}
}

// tryManagers sends the request to the managers in order until one proves that it knows the token.
// It tries the next manager only if a manager is unavailable. retry reports whether a manager was
// reached and did not answer.
func (n *Node) tryManagers(ctx context.Context, how *swarmv1.JoinClusterRequest, token pki.Token, state Membership, req *swarmv1.JoinRequest) (answer *swarmv1.JoinResponse, retry bool, err error) {
	var lastErr error
	for _, given := range how.RemoteAddrs {
		host, port, err := splitPort(given, DefaultPort)
		if err != nil || host == "" {
			return nil, false, invalid("manager address %q: want HOST or HOST:PORT", given)
		}
		addr := Peer{Addr: host, Port: port}.HostPort()
		answer, unanswered, err := n.tryManager(ctx, addr, how, token, state, req)
		if err == nil {
			return answer, false, nil
		}
		lastErr = fmt.Errorf("join through %s: %w", addr, err)
		if !unanswered && !errdefs.IsUnavailable(err) {
			return nil, false, lastErr
		}
		retry = retry || unanswered
	}
	return nil, retry, lastErr
}

// tryManager tests the network paths to and from one manager, unless the operator skipped the test,
// and sends the request. unanswered reports whether the manager was reached and did not answer.
func (n *Node) tryManager(ctx context.Context, addr string, how *swarmv1.JoinClusterRequest, token pki.Token, state Membership, req *swarmv1.JoinRequest) (answer *swarmv1.JoinResponse, unanswered bool, err error) {
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
	source, _ := netip.ParseAddr(state.Addr) // resolveAddresses has parsed it
	conn := dialer.DialAddrFrom(source, addr)
	defer conn.Close()
	proving := transport.Proving(conn, token)
	if !how.SkipNetworkCheck {
		if err := n.checkNetwork(ctx, proving, state); err != nil {
			return nil, false, err
		}
	}
	answer, err = swarmv1.NewCAClient(proving).Join(ctx, req)
	return answer, errdefs.IsUnavailable(err), err
}

// checkNetwork returns an error if a network path to the cluster is blocked. A host that joined
// nevertheless would be only partly connected. If the manager cannot do the test, checkNetwork
// returns nil: the join then reports the manager's problem.
func (n *Node) checkNetwork(ctx context.Context, conn grpc.ClientConnInterface, state Membership) error {
	if n.deps.CheckNetwork == nil {
		return nil
	}
	err := n.deps.CheckNetwork(ctx, conn, state)
	if errdefs.IsUnavailable(err) || errdefs.IsNotImplemented(err) || errdefs.IsDeadlineExceeded(err) {
		n.deps.Log.Warn("cannot test the network paths to the cluster: joining without the test", "err", err)
		return nil
	}
	return err
}

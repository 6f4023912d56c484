package ca

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/gossipkeys"
	"swarm/internal/ident"
	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

const tokenRotated = "join token was rotated or is mistyped: get the current one with `swarm join-token %s` on a manager"

// Roots hands out the root certificates to whoever asks: the joiner pins their digest against its token.
func (s *Server) Roots(context.Context, *swarmv1.RootsRequest) (*swarmv1.RootsResponse, error) {
	_, c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	return &swarmv1.RootsResponse{Bundle: c.GetRootCa().GetBundle(), ClusterId: c.GetId()}, nil
}

// Admits refuses a token that no host may join with.
func (s *Server) Admits(ctx context.Context, token string) error {
	_, c, err := s.current(ctx)
	if err != nil {
		return err
	}
	_, err = roleOf(token, c)
	return err
}

// Join makes a host a node: it checks the token, refuses a host that is a node already, writes the node's rows and signs
// its certificate.
func (s *Server) Join(ctx context.Context, req *swarmv1.JoinRequest) (*swarmv1.JoinResponse, error) {
	// The newest state: a token rotated a moment ago, or a node removed on another manager, must count here.
	view, c, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	role, err := roleOf(req.GetToken(), c)
	if err != nil {
		return nil, err
	}
	if err := checkHost(req); err != nil {
		return nil, err
	}
	given := abandoned(view, req)
	if err := refuseTwice(view, req, given); err != nil {
		return nil, err
	}
	root, bundle, err := signingRoot(c)
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	now := time.Now()
	node := &swarmv1.Node{
		Id: ident.NewID(), MachineId: req.GetMachineId(), Addr: req.GetAddr(), Port: req.GetPort(),
		DataPathAddr: req.GetDataPathAddr(), Hostname: req.GetHostname(),
		Spec: &swarmv1.NodeSpec{Role: role, Availability: req.GetAvailability()},
	}
	cert, err := root.SignNode(req.GetCsr(), node.GetId(), validity(c), now)
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	node.PublicKey = cert.RawSubjectPublicKeyInfo
	changes := []*swarmv1.Change{raftstore.Create(node), raftstore.Create(newState(node, now))}
	for _, st := range given {
		n, _ := view.Nodes.Get(st.GetNodeId())
		// With preconditions: a node that has reported meanwhile stays, and this host is told so when it asks again.
		changes = append(changes, raftstore.Delete(n), raftstore.Delete(st))
	}
	index, err := s.store.Commit(ctx, "join "+req.GetHostname(), changes...)
	if err != nil {
		return nil, fmt.Errorf("join host %s: %w", req.GetHostname(), err)
	}
	for _, st := range given {
		s.log.Info("a node that this host was admitted as before, and never was, is removed", "node", st.GetNodeId(), "hostname", req.GetHostname())
	}
	s.log.Info("node joined", "node", node.GetId(), "hostname", node.GetHostname(), "addr", node.GetAddr(), "role", role.String())
	return &swarmv1.JoinResponse{
		NodeId: node.GetId(), ClusterId: c.GetId(), Certificate: certPEM(cert), Bundle: bundle.PEM(), Role: role,
		Managers: Managers(view), GossipKeys: gossipkeys.Order(c.GetGossipKeys()), Network: c.GetSpec().GetNetwork(), Index: index,
	}, nil
}

// current is a view no older than what the leader had committed when it was asked.
func (s *Server) current(ctx context.Context) (*raftstore.View, *swarmv1.Cluster, error) {
	view, err := s.store.Latest(ctx)
	if err != nil {
		return nil, nil, err
	}
	if view.Cluster() == nil {
		return nil, nil, errdefs.ErrUnavailable.WithMessage("the cluster is being created: try again")
	}
	return view, view.Cluster(), nil
}

// roleOf compares the token with both of the cluster's, always, and in constant time.
func roleOf(text string, c *swarmv1.Cluster) (swarmv1.NodeSpec_Role, error) {
	token, err := pki.ParseToken(text)
	if err != nil {
		return 0, err
	}
	tokens := c.GetRootCa().GetJoinTokens()
	worker, err := pki.ParseToken(tokens.GetWorker())
	if err != nil {
		return 0, fmt.Errorf("read the cluster's worker token: %w", errdefs.ErrInternal)
	}
	manager, err := pki.ParseToken(tokens.GetManager())
	if err != nil {
		return 0, fmt.Errorf("read the cluster's manager token: %w", errdefs.ErrInternal)
	}
	isWorker, isManager := token.Equal(worker), token.Equal(manager)
	switch {
	case isManager:
		return swarmv1.NodeSpec_MANAGER, nil
	case isWorker:
		return swarmv1.NodeSpec_WORKER, nil
	}
	bundle, err := bundleOf(c)
	if err != nil {
		return 0, err
	}
	if _, err := token.CheckRoots(bundle, "this manager"); err != nil {
		return 0, err
	}
	return 0, errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf(tokenRotated, "worker"))
}

// checkHost refuses values that no node could work with.
func checkHost(req *swarmv1.JoinRequest) error {
	switch {
	case req.GetMachineId() == "":
		return errdefs.ErrInvalidArgument.WithMessage("join: the host gave no machine id")
	case req.GetHostname() == "":
		return errdefs.ErrInvalidArgument.WithMessage("join: the host gave no hostname")
	case req.GetPort() == 0 || req.GetPort() > 65535:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("join: port %d is out of range: it must be 1 to 65535", req.GetPort()))
	}
	for _, a := range []string{req.GetAddr(), req.GetDataPathAddr()} {
		addr, err := netip.ParseAddr(a)
		switch {
		case a == "" && req.GetAddr() != "":
		case err != nil:
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("join: address %q is not an IP address: give one with --advertise-addr", a))
		case addr.IsUnspecified() || addr.IsMulticast():
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("join: other nodes cannot reach a host at %s: give an address with --advertise-addr", a))
		}
	}
	return nil
}

// abandoned are the nodes that this very host was admitted as and never became: its join failed after our answer, or the
// answer was lost. A host that runs as one of them does not ask again.
func abandoned(view *raftstore.View, req *swarmv1.JoinRequest) []*swarmv1.NodeState {
	var out []*swarmv1.NodeState
	for n := range view.Nodes.All() {
		same := n.GetMachineId() == req.GetMachineId() && n.GetAddr() == req.GetAddr() && n.GetPort() == req.GetPort()
		if st, ok := view.NodeStates.Get(n.GetId()); ok && same && NeverReported(st) {
			out = append(out, st)
		}
	}
	return out
}

// NeverReported tells a node that was admitted and has had no session since.
func NeverReported(st *swarmv1.NodeState) bool {
	return st.GetState() != swarmv1.NodeState_READY && st.GetSessionEpoch() == 0
}

// refuseTwice keeps one host from being two nodes, those that it never became aside. A node that is down may have lost its
// disk: its host joins anew.
func refuseTwice(view *raftstore.View, req *swarmv1.JoinRequest, given []*swarmv1.NodeState) error {
	for n := range view.Nodes.All() {
		st, _ := view.NodeStates.Get(n.GetId())
		if st.GetState() == swarmv1.NodeState_DOWN || slices.Contains(given, st) {
			continue
		}
		switch {
		case n.GetMachineId() == req.GetMachineId() && sameHost(n, req):
			return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf(
				"this host is already node %s (%s, %s): run `swarm leave` on it first, or `swarm node rm --force %s` on a manager",
				n.GetId(), n.GetHostname(), stateWord(st), n.GetId()))
		case n.GetMachineId() == req.GetMachineId():
			return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf(
				"machine id %s is already that of node %s (%s at %s, %s): give this host one of its own (a cloned disk?: remove /etc/machine-id and run `systemd-machine-id-setup`), or run `swarm node rm --force %s` on a manager",
				req.GetMachineId(), n.GetId(), n.GetHostname(), n.GetAddr(), stateWord(st), n.GetId()))
		case n.GetAddr() == req.GetAddr() && n.GetPort() == req.GetPort():
			return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf(
				"address %s port %d is already that of node %s (%s, %s): give another with --advertise-addr, or run `swarm node rm --force %s` on a manager",
				req.GetAddr(), req.GetPort(), n.GetId(), n.GetHostname(), stateWord(st), n.GetId()))
		}
	}
	return nil
}

func sameHost(n *swarmv1.Node, req *swarmv1.JoinRequest) bool {
	return n.GetAddr() == req.GetAddr() || n.GetHostname() == req.GetHostname()
}

func stateWord(st *swarmv1.NodeState) string {
	if st.GetState() == swarmv1.NodeState_READY {
		return "ready"
	}
	return "has just joined"
}

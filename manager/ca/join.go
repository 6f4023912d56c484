package ca

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/gossipkeys"
	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// Roots hands out the root certificates to whoever asks: the joiner pins their digest against its token.
func (s *Server) Roots(context.Context, *swarmv1.RootsRequest) (*swarmv1.RootsResponse, error) {
	_, c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	return &swarmv1.RootsResponse{Bundle: c.GetRootCa().GetBundle(), ClusterId: c.GetId()}, nil
}

// Join makes a host a node: it has the host prove that it knows a join token, refuses a host that
// is a node already, writes the node's rows and signs its certificate.
func (s *Server) Join(ctx context.Context, req *swarmv1.JoinRequest) (*swarmv1.JoinResponse, error) {
	view, role, err := s.admit(ctx) // the newest view: a node that was removed on another manager must be gone here too
	if err != nil {
		return nil, err
	}
	if err := checkHost(view, req); err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	c := view.Cluster()
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

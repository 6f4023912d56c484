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
	"swarm/internal/members"
	"swarm/internal/origin"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Roots returns the root certificates to any caller. A joiner compares their digest with its token.
func (s *Server) Roots(context.Context, *swarmv1.RootsRequest) (*swarmv1.RootsResponse, error) {
	_, c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	return &swarmv1.RootsResponse{Bundle: c.GetRootCa().GetBundle(), ClusterId: c.GetId()}, nil
}

// Join makes a host a node. The host must prove that it knows a join token, and must not be a node
// already. Join writes the rows of the node and signs its certificate.
func (s *Server) Join(ctx context.Context, req *swarmv1.JoinRequest) (*swarmv1.JoinResponse, error) {
	view, role, err := s.admit(ctx) // the newest view, so that a node which was removed through another manager is gone
	if err != nil {
		return nil, err
	}
	select { // admit one host at a time, so that each check counts all earlier hosts
	case s.admitting <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.admitting }()
	if view, err = s.store.WaitIndex(ctx, max(s.admitted, view.Index())); err != nil {
		return nil, err
	}
	if err := checkHost(view, req); err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	if err := checkPort(view, role, req.GetPort()); err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	c := view.Cluster()
	from := caller(ctx, req)
	replaced := abandoned(view, req, from)
	if err := refuseDuplicate(view, req, from, replaced); err != nil {
		return nil, err
	}
	if err := refuseCrowd(view, from, replaced); err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	if err := s.checkJoinRate(origin.OfIP(from)); err != nil {
		return nil, fmt.Errorf("join: %w", err)
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
	changes := []*swarmv1.Change{table.Create(node), table.Create(admittedState(node, from, now))}
	for _, st := range replaced {
		n, _ := view.Nodes.Get(st.GetNodeId())
		// The changes have preconditions: if the old node has reported in the meantime, it stays,
		// and the host gets an error when it tries again.
		changes = append(changes, table.Delete(n), table.Delete(st))
	}
	index, err := s.store.Commit(ctx, "join "+req.GetHostname(), changes...)
	if err != nil {
		return nil, fmt.Errorf("join host %s: %w", req.GetHostname(), err)
	}
	s.admitted = index
	for _, st := range replaced {
		s.log.Info("removed an abandoned node: this host joined as it before, and it never reported", "node", st.GetNodeId(), "hostname", req.GetHostname())
	}
	s.log.Info("node joined", "node", node.GetId(), "hostname", node.GetHostname(), "addr", node.GetAddr(), "role", role.String())
	return &swarmv1.JoinResponse{
		NodeId: node.GetId(), ClusterId: c.GetId(), Certificate: certPEM(cert), Bundle: bundle.PEM(), Role: role,
		Managers: Managers(view), GossipKeys: gossipkeys.Order(c.GetGossipKeys()), Network: c.GetSpec().GetNetwork(), Index: index,
	}, nil
}

// caller returns the address from which a host joins. It is the advertised address if the host
// calls through loopback or memory.
func caller(ctx context.Context, req *swarmv1.JoinRequest) netip.Addr {
	if at := origin.IP(remote(ctx)); at.IsValid() && !at.IsLoopback() {
		return at
	}
	at, _ := netip.ParseAddr(req.GetAddr()) // checkHost has parsed it
	return at
}

// admittedState returns the state of a node that was just admitted. Until its first session, its
// address is the address from which it called.
func admittedState(n *swarmv1.Node, from netip.Addr, now time.Time) *swarmv1.NodeState {
	st := newState(n, now)
	st.Addr = from.String()
	return st
}

// calledFrom reports whether a node that has not reported was admitted from an origin.
func calledFrom(st *swarmv1.NodeState, from netip.Prefix) bool {
	at, err := netip.ParseAddr(st.GetAddr())
	return err == nil && origin.OfIP(at) == from
}

// current returns a view with everything that was committed when the node called. Nodes that this
// replica does not know, such as removed nodes, share one query to the leader a second.
func (s *Server) current(ctx context.Context, node string) (*table.View, *swarmv1.Cluster, error) {
	view, err := s.fresh.ViewFor(ctx, node)
	if err != nil {
		return nil, nil, err
	}
	if view.Cluster() == nil {
		return nil, nil, errdefs.ErrUnavailable.WithMessage("the cluster is being created: try again")
	}
	return view, view.Cluster(), nil
}

// abandoned returns the nodes as which this host was admitted before without becoming one: its join
// failed after the answer of the manager, or the answer was lost. A host that runs as a node does
// not join again. The call must come from the same origin, because any host with a join token can
// claim the machine id, address and port of another host that joins at this moment.
func abandoned(view *table.View, req *swarmv1.JoinRequest, from netip.Addr) []*swarmv1.NodeState {
	var out []*swarmv1.NodeState
	for n := range view.Nodes.All() {
		if st, ok := view.NodeStates.Get(n.GetId()); ok && samePlace(n, req) && members.NeverReported(st) && calledFrom(st, origin.OfIP(from)) {
			out = append(out, st)
		}
	}
	return out
}

const (
	// maxWaiting limits the nodes that were admitted and have not reported, or are guests
	// (members.Guest). maxWaitingEach limits how many of them come from one origin. An ordinary
	// host counts only for the seconds until its first session. Without a limit, anybody with a
	// join token could fill every list and table with hosts that do not exist.
	maxWaiting     = 64
	maxWaitingEach = 32
	// ForgetAfter is how long a node may take from its admission to its first session. After that
	// it is forgotten and must join again.
	ForgetAfter = 10 * time.Minute
	// KeptGuests is the number of guests that are kept. If there are more, the guests that have
	// been down for the longest time are forgotten, but only after ForgetGuestAfter of silence.
	KeptGuests       = 16
	ForgetGuestAfter = time.Hour
	// joinBurst and joinEvery limit the joins of one origin through one manager. allBurst and
	// allEvery limit all joins through it.
	joinBurst, joinEvery = 64, 10 * time.Second
	allBurst, allEvery   = 256, 2 * time.Second
)

// checkJoinRate refuses a host if hosts join too often.
func (s *Server) checkJoinRate(from netip.Prefix) error {
	wait := s.joinsOf.Take(from)
	if wait == 0 {
		wait = s.joins.Take(struct{}{})
	}
	if wait == 0 {
		return nil
	}
	return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf(
		"hosts join too often: try again in %s; if you do not know these hosts, run `swarm join-token --rotate` on a manager", wait.Round(time.Second)))
}

// refuseCrowd refuses a host if too many nodes were admitted that never reported or are guests.
// Nodes that the host replaces do not count.
func refuseCrowd(view *table.View, caller netip.Addr, replaced []*swarmv1.NodeState) error {
	all, same, from := 0, 0, origin.OfIP(caller)
	for st := range view.NodeStates.All() {
		if !members.NeverReported(st) && !members.Guest(st) || slices.Contains(replaced, st) {
			continue
		}
		all++
		if calledFrom(st, from) {
			same++
		}
	}
	what := fmt.Sprintf("%d hosts were", all)
	switch {
	case all >= maxWaiting:
	case same >= maxWaitingEach:
		what = fmt.Sprintf("%d hosts were, from %s,", same, from)
	default:
		return nil
	}
	return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf(
		"%s admitted and have never reported, or only for a few minutes: wait until they do or are forgotten, after %s to %s, or remove them with `swarm node rm --force` on a manager; if you do not know these hosts, run `swarm join-token --rotate` first", what, ForgetAfter, ForgetGuestAfter))
}

// refuseDuplicate refuses a host that is already a node. Nodes that the host replaces do not count.
// Nodes that are down do not count either, because such a host may have lost its disk and joins
// again. If the node was at the place of the host, the error is ErrUnavailable: the joining host
// then repeats its request until the node counts as down.
func refuseDuplicate(view *table.View, req *swarmv1.JoinRequest, from netip.Addr, replaced []*swarmv1.NodeState) error {
	for n := range view.Nodes.All() {
		st, _ := view.NodeStates.Get(n.GetId())
		if st.GetState() == swarmv1.NodeState_DOWN || slices.Contains(replaced, st) {
			continue
		}
		switch {
		case samePlace(n, req) && calledFrom(st, origin.OfIP(from)): // The joining host listens at this address now, so the node does not.
			return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf(
				"this host was node %s (%s, %s), which has not left the cluster: join again when the managers have noticed that it is gone, after about 10 s, or run `swarm node rm --force %s` on a manager",
				n.GetId(), n.GetHostname(), stateWord(st), n.GetId()))
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
		for _, own := range addresses(req.GetAddr(), req.GetDataPathAddr()) {
			if slices.Contains(addresses(n.GetAddr(), n.GetDataPathAddr()), own) {
				flag := "--advertise-addr"
				if own != req.GetAddr() {
					flag = "--data-path-addr"
				}
				return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf(
					"address %s is already that of node %s (%s, %s): give another with %s, or run `swarm node rm --force %s` on a manager",
					own, n.GetId(), n.GetHostname(), stateWord(st), flag, n.GetId()))
			}
		}
	}
	return nil
}

// addresses returns the addresses of a node that other nodes send to and that no two nodes may
// share, because the ports of gossip and of overlay networks are the same on all nodes. It leaves
// out loopback addresses: clusters on loopback are for trials, and their nodes differ only by their
// cluster ports.
func addresses(advertised, dataPath string) []string {
	return slices.DeleteFunc([]string{advertised, dataPath}, func(text string) bool {
		a, err := netip.ParseAddr(text)
		return err != nil || a.IsLoopback()
	})
}

// UpdatedAddress returns the row of a node with the addresses of its hello message. It returns nil
// if the row has these addresses already. It returns an error for an address that Join would
// refuse: one at which other nodes cannot be reached, or one of another node that is not down.
func UpdatedAddress(view *table.View, id string, hello *swarmv1.Hello) (*swarmv1.Node, error) {
	old, ok := view.Nodes.Get(id)
	if !ok || hello.GetAddr() == "" {
		return nil, nil
	}
	next := old.CloneVT()
	next.Addr, next.Port = hello.GetAddr(), hello.GetPort()
	switch {
	case hello.GetDataPathAddr() != "":
		next.DataPathAddr = hello.GetDataPathAddr()
	case old.GetDataPathAddr() == old.GetAddr():
		next.DataPathAddr = next.Addr
	}
	if next.Addr == old.GetAddr() && next.Port == old.GetPort() && next.DataPathAddr == old.GetDataPathAddr() {
		return nil, nil
	}
	for _, a := range []string{next.Addr, next.DataPathAddr} {
		if a != "" {
			if err := checkAddress(view, "address", "--advertise-addr at the next join", a); err != nil {
				return nil, err
			}
		}
	}
	if err := checkPort(view, old.GetSpec().GetRole(), next.Port); err != nil {
		return nil, err
	}
	for n := range view.Nodes.All() {
		if st, _ := view.NodeStates.Get(n.GetId()); n.GetId() == id || st.GetState() == swarmv1.NodeState_DOWN {
			continue
		}
		same := n.GetAddr() == next.Addr && n.GetPort() == next.Port
		for _, own := range addresses(next.Addr, next.DataPathAddr) {
			same = same || slices.Contains(addresses(n.GetAddr(), n.GetDataPathAddr()), own)
		}
		if same {
			return nil, errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf(
				"the node has another address now, %s, which is already that of node %s (%s): give one of them another", next.Addr, n.GetId(), n.GetHostname()))
		}
	}
	return next, nil
}

// samePlace reports whether a node has the machine id, address and port of a joining host.
func samePlace(n *swarmv1.Node, req *swarmv1.JoinRequest) bool {
	return n.GetMachineId() == req.GetMachineId() && n.GetAddr() == req.GetAddr() && n.GetPort() == req.GetPort()
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

package node

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/gossipkeys"
	"swarm/internal/ident"
	"swarm/internal/pki"
	"swarm/internal/spec"
	"swarm/manager/control/crud"
	"swarm/manager/control/nodecall"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// Deps are what a Server needs.
type Deps struct {
	Log    *slog.Logger
	Store  *raftstore.Store
	Writer *crud.Writer
	Nodes  *nodecall.Caller
	// Gossip says which nodes answer. Nil: the states of nodes in the store decide.
	Gossip Gossip
}

// Server serves the RPCs of nodes.
type Server struct {
	log    *slog.Logger
	store  *raftstore.Store
	writer *crud.Writer
	nodes  *nodecall.Caller
	gossip Gossip
}

// New makes a Server.
func New(deps Deps) *Server {
	return &Server{log: deps.Log, store: deps.Store, writer: deps.Writer, nodes: deps.Nodes, gossip: deps.Gossip}
}

// GetNode returns a node. "self" is this manager's node.
func (s *Server) GetNode(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.NodeInfo, error) {
	v := s.store.View()
	n, err := s.nodes.Find(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return s.nodeInfo(v, n), nil
}

// ListNodes returns the nodes that the filter matches, ordered by hostname.
func (s *Server) ListNodes(_ context.Context, req *swarmv1.ListRequest) (*swarmv1.ListNodesResponse, error) {
	v, out := s.store.View(), &swarmv1.ListNodesResponse{}
	for _, n := range object.Nodes().List(v, req.GetFilter()) {
		out.Nodes = append(out.Nodes, s.nodeInfo(v, n))
	}
	return out, nil
}

func (s *Server) nodeInfo(v *table.View, n *swarmv1.Node) *swarmv1.NodeInfo {
	st, _ := v.NodeStates.Get(n.GetId())
	info := &swarmv1.NodeInfo{Node: n, State: st}
	if n.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER {
		info.ManagerStatus = &swarmv1.ManagerStatus{
			Leader: s.store.Leader() == n.GetId(), Addr: n.GetAddr() + ":" + strconv.Itoa(int(n.GetPort())),
			Reachability: s.reachability(v, n.GetId()),
		}
	}
	return info
}

// UpdateNode writes the spec of a node, and its hostname if the request has one. A promotion or
// demotion only changes the role: the leader then changes the voters of Raft.
func (s *Server) UpdateNode(ctx context.Context, req *swarmv1.UpdateNodeRequest) (*swarmv1.NodeInfo, error) {
	found, err := s.nodes.Find(s.store.View(), req.GetId())
	if err != nil {
		return nil, err
	}
	wanted, err := spec.Node(req.GetSpec())
	if err != nil {
		return nil, err
	}
	if req.GetHostname() != "" {
		if err := ident.CheckHostname(req.GetHostname()); err != nil {
			return nil, err
		}
	}
	_, err = object.Nodes().Update(ctx, s.writer, found, req.GetVersion(), func(v *table.View, n *swarmv1.Node) ([]*swarmv1.Change, error) {
		if err := s.checkDemotion(v, n, wanted); err != nil {
			return nil, err
		}
		if err := checkNames(v, n, wanted.GetName(), req.GetHostname()); err != nil {
			return nil, err
		}
		n.Spec = wanted
		n.Hostname = cmp.Or(req.GetHostname(), n.GetHostname())
		return renameDescribed(v, n), nil
	})
	if err != nil {
		return nil, fmt.Errorf("update node %s: %w", object.Hostname(found), err)
	}
	return s.GetNode(ctx, &swarmv1.GetRequest{Id: found.GetId()})
}

// checkNames returns ErrAlreadyExists if another node has the name or the hostname, because users
// could not tell the two nodes apart. A node may keep the name and the hostname that it has, even
// if another node has the same.
func checkNames(v *table.View, n *swarmv1.Node, name, hostname string) error {
	for other := range v.Nodes.All() {
		for _, wanted := range []string{name, hostname} {
			if wanted != "" && other.GetId() != n.GetId() && !object.NodeHasName(n, wanted) && object.NodeHasName(other, wanted) {
				return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("node %s has the name %s: choose another", other.GetId(), object.Hostname(other)))
			}
		}
	}
	return nil
}

// renameDescribed returns the change which writes the new hostname of a node to the node's
// description, or nothing if the description has it.
func renameDescribed(v *table.View, n *swarmv1.Node) []*swarmv1.Change {
	st, ok := v.NodeStates.Get(n.GetId())
	if !ok || st.GetDescription() == nil || st.GetDescription().GetHostname() == n.GetHostname() {
		return nil
	}
	st = st.CloneVT()
	st.Description.Hostname = n.GetHostname()
	return []*swarmv1.Change{table.Update(st)}
}

// checkDemotion refuses a demotion after which the managers could not commit anything: one manager
// must remain, and a majority of the remaining managers must be reachable.
func (s *Server) checkDemotion(v *table.View, n *swarmv1.Node, wanted *swarmv1.NodeSpec) error {
	if n.GetSpec().GetRole() != swarmv1.NodeSpec_MANAGER || wanted.GetRole() == swarmv1.NodeSpec_MANAGER {
		return nil
	}
	stay, up := 0, 0
	for m := range v.Nodes.All() {
		if m.GetSpec().GetRole() != swarmv1.NodeSpec_MANAGER || m.GetId() == n.GetId() {
			continue
		}
		stay++
		if s.reachability(v, m.GetId()) == swarmv1.ManagerStatus_REACHABLE {
			up++
		}
	}
	switch {
	case stay == 0:
		return errdefs.ErrFailedPrecondition.WithMessage("it is the last manager: promote another node first with `swarm node promote`")
	case up < stay/2+1:
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
			"without node %s only %d of %d managers would answer, and the cluster could decide nothing: bring the others back, or demote one that is down", object.NodeName(v, n.GetId()), up, stay))
	}
	return nil
}

// RemoveNode removes a node from the cluster. The planner replaces its tasks on other nodes. If the
// host still runs, a manager tells it that it was removed, and it stops its tasks.
func (s *Server) RemoveNode(ctx context.Context, req *swarmv1.RemoveNodeRequest) (*swarmv1.RemoveResponse, error) {
	found, err := s.nodes.Find(s.store.View(), req.GetId())
	if err != nil {
		return nil, err
	}
	err = object.Nodes().Remove(ctx, s.writer, found, func(v *table.View, n *swarmv1.Node) ([]*swarmv1.Change, error) {
		return removal(v, n, req.GetForce())
	})
	if err != nil {
		return nil, fmt.Errorf("remove node %s: %w", object.Hostname(found), err)
	}
	return &swarmv1.RemoveResponse{}, nil
}

// removal returns the changes that belong to the removal of a node, or an error if the node must
// stay.
func removal(v *table.View, n *swarmv1.Node, force bool) ([]*swarmv1.Change, error) {
	if n.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER {
		return nil, errdefs.ErrFailedPrecondition.WithMessage("it is a manager: demote it first with `swarm node demote " + object.Hostname(n) + "`")
	}
	st, ok := v.NodeStates.Get(n.GetId())
	if st.GetState() == swarmv1.NodeState_READY && !force {
		return nil, errdefs.ErrFailedPrecondition.WithMessage("it is up: run `swarm leave` on it first, or remove it with --force")
	}
	var changes []*swarmv1.Change
	if c := v.Cluster().CloneVT(); c != nil {
		// The removed node knows the gossip keys.
		c.GossipKeys = gossipkeys.Replace(c.GossipKeys, pki.NewGossipKey(), time.Now())
		changes = append(changes, table.Update(c))
	}
	if ok {
		// Delete without a precondition: a change of the node's state at the same moment must not
		// keep the row.
		changes = append(changes, table.DeleteKey(table.NodeState, n.GetId()))
	}
	for c := range v.ImageCopies.All() {
		if c.GetNodeId() == n.GetId() {
			changes = append(changes, table.DeleteKey(table.ImageCopy, table.Key(c)))
		}
	}
	return changes, nil
}

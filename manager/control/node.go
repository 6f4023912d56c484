package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/gossipkeys"
	"swarm/internal/ident"
	"swarm/internal/pki"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// taskName is what users call a task: service.slot, of a global service service.node.
func taskName(service string, t *swarmv1.Task) string {
	if t.GetSlot() == 0 {
		return service + "." + t.GetNodeId()
	}
	return service + "." + strconv.FormatUint(t.GetSlot(), 10)
}

// GetNode looks a node up; "self" is this manager's.
func (s *Server) GetNode(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.NodeInfo, error) {
	v := s.store.View()
	n, err := s.node(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return s.nodeInfo(v, n), nil
}

func (s *Server) node(v *raftstore.View, ref string) (*swarmv1.Node, error) {
	if ref == "self" {
		ref = s.cfg.NodeID
	}
	return findNode(v, ref)
}

// ListNodes lists nodes by hostname.
func (s *Server) ListNodes(_ context.Context, req *swarmv1.ListRequest) (*swarmv1.ListNodesResponse, error) {
	v, out := s.store.View(), &swarmv1.ListNodesResponse{}
	for n := range v.Nodes.All() {
		if matches(req.GetFilter(), nodeSubject(v, n)) {
			out.Nodes = append(out.Nodes, s.nodeInfo(v, n))
		}
	}
	slices.SortStableFunc(out.Nodes, func(a, b *swarmv1.NodeInfo) int {
		return cmp.Compare(a.GetNode().GetHostname(), b.GetNode().GetHostname())
	})
	return out, nil
}

func nodeSubject(v *raftstore.View, n *swarmv1.Node) subject {
	st, _ := v.NodeStates.Get(n.GetId())
	return subject{
		id: n.GetId(), names: []string{n.GetSpec().GetName(), n.GetHostname()}, nodes: []string{n.GetId()},
		labels: []map[string]string{n.GetSpec().GetLabels(), st.GetDescription().GetEngine().GetLabels()},
		role:   n.GetSpec().GetRole(), hasRole: true,
	}
}

func (s *Server) nodeInfo(v *raftstore.View, n *swarmv1.Node) *swarmv1.NodeInfo {
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

// reachability is what this manager knows of another one as a member of Raft.
func (s *Server) reachability(v *raftstore.View, id string) swarmv1.ManagerStatus_Reachability {
	servers := s.store.Servers()
	at := slices.IndexFunc(servers, func(m raftstore.Server) bool { return m.ID == id })
	votes := at >= 0 && servers[at].Voter
	switch {
	case id == s.cfg.NodeID, id == s.store.Leader():
	case votes && s.store.IsLeader(): // Raft's own heartbeats tell
		if !servers[at].Reachable {
			return swarmv1.ManagerStatus_UNREACHABLE
		}
	case !s.alive(v, id):
		return swarmv1.ManagerStatus_UNREACHABLE
	}
	if !votes {
		return swarmv1.ManagerStatus_CATCHING_UP
	}
	return swarmv1.ManagerStatus_REACHABLE
}

// alive: gossip knows first. Where it knows nothing, the leader's verdict counts.
func (s *Server) alive(v *raftstore.View, id string) bool {
	if s.deps.Gossip != nil {
		if alive, known := s.deps.Gossip.Alive(id); known {
			return alive
		}
	}
	st, _ := v.NodeStates.Get(id)
	return st.GetState() == swarmv1.NodeState_READY
}

// UpdateNode writes a node's spec and, when the request names one, its hostname. Promotion and demotion are changes of its role: the managers follow.
func (s *Server) UpdateNode(ctx context.Context, req *swarmv1.UpdateNodeRequest) (*swarmv1.NodeInfo, error) {
	found, err := s.node(s.store.View(), req.GetId())
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
	_, err = s.write(ctx, req.GetVersion(), func(v *raftstore.View) ([]*swarmv1.Change, error) {
		n, ok := v.Nodes.Get(found.GetId())
		if !ok {
			return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("node %s was removed meanwhile", found.GetId()))
		}
		if err := checkVersion("node", n.GetId(), req.GetVersion(), n.GetMeta().GetVersion()); err != nil {
			return nil, err
		}
		if err := s.checkDemotion(v, n, wanted); err != nil {
			return nil, err
		}
		if err := checkNames(v, n, wanted.GetName(), req.GetHostname()); err != nil {
			return nil, err
		}
		row := n.CloneVT()
		row.Spec = wanted
		row.Hostname = cmp.Or(req.GetHostname(), n.GetHostname())
		if row.EqualVT(n) {
			return nil, nil
		}
		return append(renamed(v, row), raftstore.Update(row)), nil
	})
	if err != nil {
		return nil, fmt.Errorf("update node %s: %w", nodeOr(found), err)
	}
	return s.GetNode(ctx, &swarmv1.GetRequest{Id: found.GetId()})
}

// checkNames refuses to give a node a name that another node has: neither could be told by it. Hosts may join with one
// hostname.
func checkNames(v *raftstore.View, n *swarmv1.Node, name, hostname string) error {
	for other := range v.Nodes.All() {
		for _, wanted := range []string{name, hostname} {
			if wanted != "" && other.GetId() != n.GetId() && !called(n, wanted) && called(other, wanted) {
				return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("node %s has the name %s: choose another", other.GetId(), nodeOr(other)))
			}
		}
	}
	return nil
}

// renamed is the change of what is shown of a node whose hostname differs from now on.
func renamed(v *raftstore.View, n *swarmv1.Node) []*swarmv1.Change {
	st, ok := v.NodeStates.Get(n.GetId())
	if !ok || st.GetDescription() == nil || st.GetDescription().GetHostname() == n.GetHostname() {
		return nil
	}
	st = st.CloneVT()
	st.Description.Hostname = n.GetHostname()
	return []*swarmv1.Change{raftstore.Update(st)}
}

// checkDemotion keeps the managers able to decide: one must stay, and of those that stay most must be up.
func (s *Server) checkDemotion(v *raftstore.View, n *swarmv1.Node, wanted *swarmv1.NodeSpec) error {
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
			"without node %s only %d of %d managers would answer, and the cluster could decide nothing: bring the others back, or demote one that is down", nodeName(v, n.GetId()), up, stay))
	}
	return nil
}

// RemoveNode takes a node out of the cluster. Its tasks are replaced elsewhere; a host that is still there is told, and
// stops them.
func (s *Server) RemoveNode(ctx context.Context, req *swarmv1.RemoveNodeRequest) (*swarmv1.RemoveResponse, error) {
	found, err := s.node(s.store.View(), req.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.catchUp(ctx); err != nil {
		return nil, err
	}
	_, err = s.write(ctx, 0, func(v *raftstore.View) ([]*swarmv1.Change, error) {
		n, ok := v.Nodes.Get(found.GetId())
		if !ok {
			return nil, nil
		}
		return removal(v, n, req.GetForce())
	})
	if err != nil {
		return nil, fmt.Errorf("remove node %s: %w", nodeOr(found), err)
	}
	s.log.Info("node removed", "node", found.GetId(), "actor", actor(ctx))
	return &swarmv1.RemoveResponse{}, nil
}

func nodeOr(n *swarmv1.Node) string {
	if n.GetHostname() != "" {
		return n.GetHostname()
	}
	return n.GetId()
}

// removal is the rows that go with a node.
func removal(v *raftstore.View, n *swarmv1.Node, force bool) ([]*swarmv1.Change, error) {
	if n.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER {
		return nil, errdefs.ErrFailedPrecondition.WithMessage("it is a manager: demote it first with `swarm node demote " + nodeOr(n) + "`")
	}
	st, ok := v.NodeStates.Get(n.GetId())
	if st.GetState() == swarmv1.NodeState_READY && !force {
		return nil, errdefs.ErrFailedPrecondition.WithMessage("it is up: run `swarm leave` on it first, or remove it with --force")
	}
	changes := []*swarmv1.Change{raftstore.Delete(n)}
	if c := v.Cluster().CloneVT(); c != nil {
		// The node knows the gossip keys.
		c.GossipKeys = gossipkeys.Replace(c.GossipKeys, pki.NewGossipKey(), time.Now())
		changes = append(changes, raftstore.Update(c))
	}
	if ok {
		// Without precondition: a heartbeat's conclusion in the same moment must not keep the row.
		changes = append(changes, raftstore.DeleteKey(raftstore.TableNodeState, n.GetId()))
	}
	for c := range v.ImageCopies.All() {
		if c.GetNodeId() == n.GetId() {
			changes = append(changes, raftstore.DeleteKey(raftstore.TableImageCopy, raftstore.Key(c)))
		}
	}
	return changes, nil
}

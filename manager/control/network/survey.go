package network

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/bounds"
	"swarm/internal/spec"
	"swarm/manager/control/address"
	"swarm/manager/control/nodecall"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// surveyTimeout limits the call to one node, which reads tables of its kernel.
const surveyTimeout = 3 * time.Second

// SurveyNetwork asks every node what it has of a network, and compares that with what the managers
// know. A node that does not answer is in the result with an error.
func (s *Server) SurveyNetwork(ctx context.Context, req *swarmv1.GetRequest) (*swarmv1.NetworkSurvey, error) {
	if spec.IsLocalNetwork(req.GetId()) {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("network %s is every node's own: there is nothing to compare", req.GetId()))
	}
	v := s.store.View()
	n, err := object.Networks().Find(v, req.GetId())
	if err != nil {
		return nil, err
	}
	nodes, err := s.nodes.Select(v, nil)
	if err != nil {
		return nil, err
	}
	found := make([]*swarmv1.NetworkOnNode, len(nodes))
	s.nodes.Each(ctx, nodes, surveyTimeout, func(ctx context.Context, i int, conn grpc.ClientConnInterface, err error) {
		id := nodes[i].GetId()
		found[i] = &swarmv1.NetworkOnNode{NodeId: id, Hostname: object.NodeName(v, id)}
		if err == nil {
			var answer *swarmv1.NodeNetwork
			if answer, err = swarmv1.NewWorkerClient(conn).Network(ctx, &swarmv1.NodeNetworkRequest{Id: n.GetId()}); err == nil {
				found[i].Network = bounds.Network(answer)
			}
		}
		found[i].Error = nodecall.ErrorText(err)
	})
	// Compare with the newest view: a node may have received a change before it was asked.
	v = s.store.View()
	members := membersOf(v, n)
	out := &swarmv1.NetworkSurvey{}
	for i, f := range found {
		if f.GetError() == "" {
			f.Differences = differences(f.GetNetwork(), n, members, nodes[i].GetId())
		}
		hasNetwork := f.GetNetwork() != nil && !f.GetNetwork().GetAbsent()
		if hasNetwork || len(members[nodes[i].GetId()].tasks) > 0 || len(f.GetDifferences()) > 0 {
			out.Nodes = append(out.Nodes, f)
		}
	}
	return out, nil
}

// onNode is what the managers know of a network on one node.
type onNode struct {
	addr string
	// tasks has the ids of the tasks on the node. The value is true if the container must be
	// attached by now, because it runs.
	tasks map[string]bool
}

// membersOf returns what the managers know of a network, by node. On network ingress, each node
// itself counts as a task.
func membersOf(v *table.View, network *swarmv1.Network) map[string]onNode {
	out := map[string]onNode{}
	if network.GetSpec().GetIngress() {
		// The nodes themselves are on it while ports are published.
		for id := range address.OfNodes(v) {
			row, _ := v.Nodes.Get(id)
			out[id] = onNode{addr: dataPath(row), tasks: map[string]bool{id: false}}
		}
		return out
	}
	for svc := range v.Services.All() {
		for _, b := range backendsOn(v, svc.GetId(), network.GetId()) {
			node, ok := out[b.GetNodeId()]
			if !ok {
				row, _ := v.Nodes.Get(b.GetNodeId())
				node = onNode{addr: dataPath(row), tasks: map[string]bool{}}
				out[b.GetNodeId()] = node
			}
			node.tasks[b.GetTaskId()] = v.Status(b.GetTaskId()).GetState() > swarmv1.TaskState_STARTING
		}
	}
	return out
}

// differences returns how a node differs from what the managers know. A task that starts or ends
// makes a difference for a moment.
func differences(has *swarmv1.NodeNetwork, n *swarmv1.Network, members map[string]onNode, self string) (out []string) {
	if has.GetAbsent() {
		for _, id := range slices.Sorted(maps.Keys(members[self].tasks)) {
			if members[self].tasks[id] {
				out = append(out, "it has nothing of the network, and task "+id+" should be on it")
			}
		}
		return out
	}
	if has.GetVni() != n.GetVni() {
		out = append(out, fmt.Sprintf("it uses network identifier %d, not %d", has.GetVni(), n.GetVni()))
	}
	here := map[string]bool{}
	for _, id := range has.GetTaskIds() {
		here[id] = true
		if _, ok := members[self].tasks[id]; !ok {
			out = append(out, "task "+id+" is attached, and should not be")
		}
	}
	for _, id := range slices.Sorted(maps.Keys(members[self].tasks)) {
		if members[self].tasks[id] && !here[id] {
			out = append(out, "task "+id+" is not attached")
		}
	}
	what := "tasks"
	if n.GetSpec().GetIngress() {
		what = "nodes"
	}
	known, wanted := map[string]int{}, map[string]int{}
	for _, p := range has.GetPeers() {
		known[p.GetAddr()], wanted[p.GetAddr()] = int(p.GetEndpoints()), 0
	}
	for id, m := range members {
		if id != self {
			wanted[m.addr] += len(m.tasks)
		}
	}
	for _, addr := range slices.Sorted(maps.Keys(wanted)) {
		if known[addr] != wanted[addr] {
			out = append(out, fmt.Sprintf("it knows %d %s on host %s, and there are %d", known[addr], what, addr, wanted[addr]))
		}
	}
	return out
}

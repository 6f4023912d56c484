package node_test

import (
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"

	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestControl_Nodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		a := r.AddNode("host-a")
		r.AddNode("twin")
		r.AddNode("twin")
		_, err := r.Control.GetNode(t.Context(), &swarmv1.GetRequest{Id: "twin"})
		controltest.Refused(t, "a name of two nodes", err, errdefs.IsInvalidArgument, "ambiguous")
		_, err = r.Control.GetNode(t.Context(), &swarmv1.GetRequest{Id: "nobody"})
		controltest.Refused(t, "a name of no node", err, errdefs.IsNotFound, "swarm node ls")
		if n, err := r.Control.GetNode(t.Context(), &swarmv1.GetRequest{Id: a[:6]}); err != nil || n.GetNode().GetId() != a {
			t.Errorf("by the beginning of its id: %v, %v", n, err)
		}
		own, err := r.Control.GetNode(t.Context(), &swarmv1.GetRequest{Id: "self"})
		if err != nil || !own.GetManagerStatus().GetLeader() || own.GetManagerStatus().GetReachability() != swarmv1.ManagerStatus_REACHABLE {
			t.Errorf("self: %v, %v; want the leader", own, err)
		}
		_, err = r.Control.UpdateNode(t.Context(), &swarmv1.UpdateNodeRequest{Id: "self", Spec: &swarmv1.NodeSpec{}})
		controltest.Refused(t, "demotion of the last manager", err, errdefs.IsFailedPrecondition, "last manager")
		_, err = r.Control.RemoveNode(t.Context(), &swarmv1.RemoveNodeRequest{Id: "self", Force: true})
		controltest.Refused(t, "removal of a manager", err, errdefs.IsFailedPrecondition, "demote it first")
	})
}

// A host may join with a hostname that another node has, but an operator cannot give a node such a
// name.
func TestControl_NodesAreNotRenamedToEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		one, two := r.AddNode("h1"), r.AddNode("h2")
		_, err := r.Control.UpdateNode(t.Context(), &swarmv1.UpdateNodeRequest{Id: two, Spec: &swarmv1.NodeSpec{}, Hostname: "H1"})
		controltest.Refused(t, "a hostname in use", err, errdefs.IsAlreadyExists, "node "+one+" has the name h1: choose another")
		if n, err := r.Control.UpdateNode(t.Context(), &swarmv1.UpdateNodeRequest{Id: two, Spec: &swarmv1.NodeSpec{}, Hostname: "H2"}); err != nil || n.GetNode().GetHostname() != "H2" {
			t.Errorf("its own name in another spelling: got %v, %v", n, err)
		}
	})
}

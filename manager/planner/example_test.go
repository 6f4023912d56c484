package planner_test

import (
	"fmt"
	"time"

	"swarm/manager/planner"
	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
)

// The example makes the State of a view and plans the services that are due.
func ExamplePlanner_Plan() {
	view := raftstoretest.View(
		&swarmv1.Node{Id: "n1", Spec: &swarmv1.NodeSpec{}},
		&swarmv1.NodeState{NodeId: "n1", State: swarmv1.NodeState_READY},
		&swarmv1.Service{Id: "web", Name: "web", Revision: 1},
		&swarmv1.Revision{ServiceId: "web", Number: 1, Template: 1, Spec: &swarmv1.ServiceSpec{
			Name: "web",
			Mode: &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Replicated{Replicated: &swarmv1.ReplicatedService{Replicas: 2}}},
		}},
	)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

	state := cluster.New(view)
	res := planner.New(state).Plan(state.Due(now), now)
	for _, g := range res.Groups {
		for _, c := range g.Changes {
			if t := c.GetPut().GetTask(); t != nil {
				fmt.Printf("%s.%d on %s, wants %s\n", g.Service, t.GetSlot(), t.GetNodeId(), t.GetDesiredState())
			}
		}
	}
	// Output:
	// web.1 on n1, wants RUNNING
	// web.2 on n1, wants RUNNING
}

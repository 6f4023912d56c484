package assignment

import (
	"strings"
	"testing"

	"swarm/internal/bounds"
	swarmv1 "swarm/proto/swarm/v1"
)

// FuzzToWorker passes any bytes that a manager may send through the checks and into a Set. No
// message may end the daemon, and no key may contain a path separator that would let it leave its
// place.
func FuzzToWorker(f *testing.F) {
	for _, m := range []*swarmv1.ToWorker{
		{Message: &swarmv1.ToWorker_Welcome{Welcome: &swarmv1.Welcome{ManagerId: "m", SessionEpoch: 1}}},
		{Message: &swarmv1.ToWorker_Node{Node: &swarmv1.NodeUpdate{Managers: []*swarmv1.Peer{{NodeId: "m", Addr: "192.0.2.1", Port: 2377}}}}},
		{Message: &swarmv1.ToWorker_Assignments{Assignments: &swarmv1.Assignments{Sequence: 1, Complete: true, Changes: []*swarmv1.AssignmentChange{
			{Change: &swarmv1.AssignmentChange_Put{Put: &swarmv1.Assignment{Object: &swarmv1.Assignment_Task{Task: &swarmv1.Task{Id: "../t", ServiceId: "s"}}}}},
			{Change: &swarmv1.AssignmentChange_Put{Put: &swarmv1.Assignment{Object: &swarmv1.Assignment_DataVersion{DataVersion: &swarmv1.DataVersion{ObjectId: "x"}}}}},
			{Change: &swarmv1.AssignmentChange_Put{Put: &swarmv1.Assignment{}}},
			{Change: &swarmv1.AssignmentChange_Remove{Remove: &swarmv1.AssignmentRef{Kind: 1, Id: "t"}}},
		}}}},
	} {
		data, err := m.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &swarmv1.ToWorker{}
		if m.UnmarshalVT(data) != nil {
			return
		}
		clean, _ := bounds.Assignments(m.GetAssignments())
		o := New()
		for _, c := range append(o.Apply(clean), o.Apply(clean)...) {
			composed := c.Key.Kind == swarmv1.AssignmentRef_REVISION || c.Key.Kind == swarmv1.AssignmentRef_KEY ||
				c.Key.Kind == swarmv1.AssignmentRef_DATA_VERSION
			if c.Wire() == nil || c.Now != nil && !composed && strings.Contains(c.Key.ID, "/") {
				t.Errorf("change %v", c)
			}
		}
		for kind := range swarmv1.AssignmentRef_Kind_name {
			o.List(swarmv1.AssignmentRef_Kind(kind))
		}
		bounds.Peers(m.GetNode().GetManagers())
	})
}

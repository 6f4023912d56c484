package table_test

import (
	"fmt"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Example builds a View without a store, as the tests of a planner do, and reads it.
func Example() {
	view := table.ViewOf(
		&swarmv1.Service{Id: "s1", Name: "Web"},
		&swarmv1.Task{Id: "t1", ServiceId: "s1", Slot: 1, NodeId: "n1"},
		&swarmv1.Task{Id: "t2", ServiceId: "s1", Slot: 2, NodeId: "n2"},
	)
	service, _ := view.Services.ByName("web") // names of services ignore case
	for task := range view.TasksOfService(service.GetId()) {
		fmt.Println("slot", task.GetSlot(), "on node", task.GetNodeId())
	}
	for task := range view.TasksOnNode("n2") {
		fmt.Println("on n2:", table.Key(task))
	}
	// Output:
	// slot 1 on node n1
	// slot 2 on node n2
	// on n2: t2
}

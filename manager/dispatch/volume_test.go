package dispatch

import (
	"slices"
	"strings"
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

func TestVolumesOf(t *testing.T) {
	mounts := []*swarmv1.Mount{{Type: swarmv1.Mount_VOLUME, Source: "data-{{.Node.Hostname}}", Target: "/d"}}
	view := raftstoretest.View(
		&swarmv1.Node{Id: "n1", Hostname: "host1"},
		&swarmv1.Revision{ServiceId: "s1", Number: 1, Spec: &swarmv1.ServiceSpec{TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{Mounts: mounts}}}},
		&swarmv1.Task{Id: "t1", ServiceId: "s1", Revision: 1, Slot: 1, NodeId: "n1"}, &swarmv1.TaskStatus{TaskId: "t1", State: swarmv1.TaskState_PREPARING},
		&swarmv1.Volume{NodeId: "n1", Name: "data-host1", MakerId: "s1"},                                                             // being made
		&swarmv1.Volume{NodeId: "n1", Name: "never", MakerId: "s2"},                                                                  // its task has ended
		&swarmv1.Volume{NodeId: "n1", Name: "gone", MakerId: "s2", Reported: true},                                                   // removed on the node
		&swarmv1.Volume{NodeId: "n1", Name: "same", Size: 7, Reported: true},                                                         // nothing new
		&swarmv1.Volume{NodeId: "n1", Name: "grown", Size: 7, MakerId: "s2", Uses: []*swarmv1.VolumeUse{{ServiceId: "s2", Slot: 1}}}, // first report
		&swarmv1.Volume{NodeId: "n2", Name: "other", Reported: true},                                                                 // of another node
	)
	report := &swarmv1.VolumeReport{Held: []*swarmv1.Volume{{Name: "same", Size: 7}, {Name: "grown", Size: 9, NodeId: "n2", MakerId: "evil", Accepted: true}, {Name: "found"}}}
	var got []string
	for _, c := range volumesOf(view, &entry{session: &session{node: "n1"}, volumes: report}) {
		if row := c.GetPut().GetVolume(); row != nil {
			got = append(got, "put "+table.Key(row))
			if !row.GetReported() || row.GetAccepted() || row.GetName() == "grown" && (row.GetMakerId() != "s2" || len(row.GetUses()) != 1 || row.GetSize() != 9) {
				t.Errorf("row %v", row)
			}
		} else {
			got = append(got, "delete "+c.GetDelete().GetKey())
		}
	}
	slices.Sort(got)
	if want := "delete n1/gone, delete n1/never, put n1/found, put n1/grown"; strings.Join(got, ", ") != want {
		t.Errorf("got %s, want %s", strings.Join(got, ", "), want)
	}
}

package manager

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// Of a secret, the newest ten versions stay, the current one, and those that a revision names.
func TestOldVersions(t *testing.T) {
	rows := []proto.Message{
		&swarmv1.Secret{Id: "db", Spec: &swarmv1.DataSpec{Name: "db"}, Status: &swarmv1.DataStatus{Number: 2}},
		&swarmv1.Revision{ServiceId: "web", Number: 7, Spec: &swarmv1.ServiceSpec{TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{
			Secrets: []*swarmv1.DataReference{{Id: "db", Number: 4, Previous: 3}},
		}}}},
	}
	for n := range uint64(16) {
		rows = append(rows, &swarmv1.DataVersion{ObjectId: "db", Number: n + 1})
	}
	var got []string
	for _, c := range oldVersions(raftstoretest.View(rows...), "db") {
		got = append(got, c.GetDelete().GetKey())
	}
	want := []string{table.DataVersionKey("db", 1), table.DataVersionKey("db", 5), table.DataVersionKey("db", 6)}
	if !slices.Equal(got, want) {
		t.Errorf("deleted %v, want %v", got, want)
	}
}

package control

import (
	"bytes"
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Users may watch every table except for the two that describe no object of the API.
func TestEvents_EveryTable(t *testing.T) {
	hidden := map[table.ID]bool{table.Claim: true, table.RaftMember: true, table.DataVersion: true}
	watched := map[table.ID]bool{}
	for _, e := range events() {
		if watched[e.Table] || hidden[e.Table] {
			t.Errorf("table %s: is listed twice, or must not be", e.Table)
		}
		watched[e.Table] = true
	}
	fields := (&swarmv1.Object{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if id := table.ID(fields.Get(i).Number()); !watched[id] && !hidden[id] {
			t.Errorf("table %s has no events: add those of its Kind", id)
		}
	}
}

// Events never have the secrets of the rows that they are made from.
func TestEvents_HideSecrets(t *testing.T) {
	rows := map[table.ID]table.Row{
		table.Cluster: &swarmv1.Cluster{
			Id: "c1", GossipKeys: []*swarmv1.EncryptionKey{{Key: []byte("hidden")}}, UnlockKey: &swarmv1.EncryptionKey{Key: []byte("hidden")},
			RootCa: &swarmv1.RootCA{SigningKey: []byte("hidden"), JoinTokens: &swarmv1.JoinTokens{Worker: "hidden"}},
		},
		table.Revision: &swarmv1.Revision{Spec: &swarmv1.ServiceSpec{TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{
			PullOptions: &swarmv1.PullOptions{RegistryAuth: "hidden"},
		}}}},
	}
	for _, e := range events() {
		row, ok := rows[e.Table]
		if !ok {
			continue
		}
		event := e.Event(&table.View{}, table.RowChange{Table: e.Table, Key: "k", New: row}, true)
		data, err := event.MarshalVT()
		if err != nil || bytes.Contains(data, []byte("hidden")) {
			t.Errorf("%s: got %v, %v", e.Type(), event, err)
		}
	}
}

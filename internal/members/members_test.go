package members_test

import (
	"testing"

	"swarm/internal/members"
	swarmv1 "swarm/proto/swarm/v1"
)

func put(id string, keys ...string) *swarmv1.AssignmentChange {
	p := &swarmv1.Peering{NodeId: id}
	for _, k := range keys {
		p.PublicKeys = append(p.PublicKeys, []byte(k))
	}
	return &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Put{Put: &swarmv1.Assignment{Object: &swarmv1.Assignment_Peering{Peering: p}}}}
}

func remove(id string) *swarmv1.AssignmentChange {
	return &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Remove{Remove: &swarmv1.AssignmentRef{Kind: swarmv1.AssignmentRef_PEERING, Id: id}}}
}

func TestMembers(t *testing.T) {
	m := members.New()
	if m.Known() || m.Holds("n1", nil) || m.Holds("n1", []byte("a")) {
		t.Error("an empty list holds a key")
	}
	steps := []struct {
		name    string
		change  *swarmv1.AssignmentChange
		changes bool
		holds   map[string]bool // for each key, whether n1 holds it
	}{
		{"joined", put("n1", "a"), true, map[string]bool{"a": true, "b": false}},
		{"told again", put("n1", "a"), false, map[string]bool{"a": true}},
		{"renewed", put("n1", "b", "a"), true, map[string]bool{"a": true, "b": true}},
		{"seen", put("n1", "b"), true, map[string]bool{"a": false, "b": true}},
		{"another", put("n2", "c"), true, map[string]bool{"b": true, "c": false}},
		{"removed", remove("n1"), true, map[string]bool{"a": false, "b": false}},
		{"removed again", remove("n1"), false, map[string]bool{"b": false}},
	}
	for _, s := range steps {
		changed := m.Changed()
		m.Apply([]*swarmv1.AssignmentChange{s.change})
		select {
		case <-changed:
			if !s.changes {
				t.Errorf("%s: says that it changed", s.name)
			}
		default:
			if s.changes {
				t.Errorf("%s: does not say that it changed", s.name)
			}
		}
		for key, want := range s.holds {
			if got := m.Holds("n1", []byte(key)); got != want {
				t.Errorf("%s: n1 holds %s: got %v, want %v", s.name, key, got, want)
			}
		}
	}
	if !m.Known() || !m.Holds("n2", []byte("c")) {
		t.Error("the other member was forgotten")
	}
}

func TestAllows(t *testing.T) {
	row := &swarmv1.Node{PublicKey: []byte("new"), PreviousKey: []byte("old")}
	for key, want := range map[string]bool{"new": true, "old": true, "older": false, "": false} {
		if got := members.Allows(row, []byte(key)); got != want {
			t.Errorf("Allows(%q) = %v, want %v", key, got, want)
		}
	}
	if members.Allows(nil, nil) || members.Allows(&swarmv1.Node{}, nil) || members.Allows(&swarmv1.Node{}, []byte{}) {
		t.Error("a row without a key, or no row, allows a key")
	}
}

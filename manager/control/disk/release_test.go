package disk

import (
	"testing"

	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

const (
	digestA = "sha256:aaaa"
	digestB = "sha256:bbbb"
)

// holders makes nodes n0, n1, ... that are ready and hold a digest.
func holders(digest string, n int) (rows []table.Row) {
	for i := range n {
		id := "n" + string(rune('0'+i))
		rows = append(rows, &swarmv1.Node{Id: id}, &swarmv1.NodeState{NodeId: id, State: swarmv1.NodeState_READY}, &swarmv1.ImageCopy{Digest: digest, NodeId: id})
	}
	return rows
}

func specOf(image string) *swarmv1.ServiceSpec {
	return &swarmv1.ServiceSpec{Name: "web", TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{Image: image}}}
}

// history makes a service with a revision for each image. It runs the last one, and a rollback
// returns to the one before.
func history(images ...string) (rows []table.Row) {
	rows = append(rows, &swarmv1.Service{Id: "s", Name: "web", Revision: uint64(len(images)), PreviousRevision: uint64(len(images) - 1)})
	for i, image := range images {
		rows = append(rows, &swarmv1.Revision{ServiceId: "s", Number: uint64(i + 1), Spec: specOf(image)})
	}
	return rows
}

func TestRelease(t *testing.T) {
	loaded := &swarmv1.Image{Id: "i", Name: "app:1", Digest: digestA, Loaded: true}
	pulled := &swarmv1.Image{Id: "i", Name: "app:1", Digest: digestA}
	leaving := func(id string) table.Row {
		return &swarmv1.ImageCopy{Digest: digestA, NodeId: id, Leaving: true}
	}
	used, other := "app:1@"+digestA, "app:2@"+digestB
	for _, c := range []struct {
		name    string
		rows    []table.Row
		granted bool
	}{
		{"nobody knows it", holders(digestA, 1), true},
		{"pulled, the only copy", append(holders(digestA, 1), pulled), true},
		{"loaded, four copies", append(holders(digestA, 4), loaded), true},
		{"loaded, three copies", append(holders(digestA, 3), loaded), false},
		{"loaded, the last copy", append(holders(digestA, 1), loaded), false},
		{"loaded, four copies of which one leaves", append(append(holders(digestA, 3), loaded, &swarmv1.Node{Id: "n3"}), leaving("n3")), false},
		{"in use", append(holders(digestA, 5), history(other, used)...), false},
		{"the way back", append(holders(digestA, 5), history(used, other)...), false},
		{"an older revision, the only copy", append(holders(digestA, 1), history(used, other, other)...), false},
		{"an older revision, two copies", append(holders(digestA, 2), history(used, other, other)...), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			messages := make([]proto.Message, 0, len(c.rows))
			for _, r := range c.rows {
				messages = append(messages, r)
			}
			changes, granted := release(raftstoretest.View(messages...), "n0", digestA, false)
			if granted != c.granted || granted == (len(changes) == 0) {
				t.Errorf("granted %v with %d changes, want %v", granted, len(changes), c.granted)
			}
		})
	}
}

// If two nodes ask at the same time and one copy is dispensable, one of them may remove its copy.
func TestRelease_TwoAtOnce(t *testing.T) {
	store := raftstoretest.New(t)
	rows := append(holders(digestA, 4), &swarmv1.Image{Id: "i", Name: "app:1", Digest: digestA, Loaded: true})
	for _, r := range rows {
		if _, err := store.Commit(t.Context(), "test", table.Create(r)); err != nil {
			t.Fatal(err)
		}
	}
	view := store.View()
	granted := 0
	for _, node := range []string{"n0", "n1"} {
		changes, ok := release(view, node, digestA, false) // both saw the same
		if !ok {
			t.Fatalf("%s alone is refused", node)
		}
		if _, err := store.Commit(t.Context(), "test", changes...); err == nil {
			granted++
		}
	}
	if granted != 1 {
		t.Errorf("%d nodes may remove their copy, want 1", granted)
	}
	undo, _ := release(store.View(), "n0", digestA, true)
	if _, err := store.Commit(t.Context(), "test", undo...); err != nil {
		t.Fatal(err)
	}
	if _, ok := release(store.View(), "n1", digestA, false); !ok {
		t.Error("what was taken back still counts")
	}
}

func TestLabelsPass(t *testing.T) {
	have := map[string]string{"tier": "web", "old": ""}
	for _, c := range []struct {
		filters []string
		want    bool
	}{
		{nil, true},
		{[]string{"tier"}, true},
		{[]string{"tier=web", "old"}, true},
		{[]string{"tier=db"}, false},
		{[]string{"new"}, false},
		{[]string{"new!"}, true},
		{[]string{"tier!=db"}, true},
		{[]string{"tier!=web"}, false},
	} {
		if got := labelsPass(c.filters, have); got != c.want {
			t.Errorf("%v: got %v, want %v", c.filters, got, c.want)
		}
	}
}

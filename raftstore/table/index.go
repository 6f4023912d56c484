package table

import (
	"github.com/tidwall/btree"

	swarmv1 "swarm/proto/swarm/v1"
)

// index holds the rows of a table in another order. It has pointers to rows, not keys.
type index[T Row] struct {
	less func(a, b T) bool // a total order: ties are broken by key
	has  func(T) bool      // whether the index includes the row
	tree *btree.BTreeG[T]
}

func newIndex[T Row](less func(a, b T) bool, has func(T) bool) *index[T] {
	return &index[T]{less: less, has: has, tree: btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})}
}

// The indexes of tasks.
const (
	bySlot = iota
	byNode
)

// taskIndexes returns the indexes of tasks, in the order of the constants.
func taskIndexes() []*index[*swarmv1.Task] {
	return []*index[*swarmv1.Task]{bySlot: tasksBySlot(), byNode: tasksByNode()}
}

func tasksBySlot() *index[*swarmv1.Task] {
	return newIndex(func(a, b *swarmv1.Task) bool {
		if a.ServiceId != b.ServiceId {
			return a.ServiceId < b.ServiceId
		}
		if a.Slot != b.Slot {
			return a.Slot < b.Slot
		}
		return a.Id < b.Id
	}, func(*swarmv1.Task) bool { return true })
}

func tasksByNode() *index[*swarmv1.Task] {
	return newIndex(func(a, b *swarmv1.Task) bool {
		if a.NodeId != b.NodeId {
			return a.NodeId < b.NodeId
		}
		return a.Id < b.Id
	}, func(t *swarmv1.Task) bool { return t.NodeId != "" })
}

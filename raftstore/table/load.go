package table

import (
	"fmt"
	"slices"

	"github.com/tidwall/btree"

	swarmv1 "swarm/proto/swarm/v1"
)

func (t *trees[T]) stamp(r Row, m *swarmv1.Meta) { t.setMeta(r.(T), m) }

// load appends a row. Rows must come in the order of their keys, as in a snapshot. Call index after
// the last row.
func (t *trees[T]) load(r Row) error {
	row := r.(T)
	key := t.key(row)
	if key == "" {
		return fmt.Errorf("%s without a key", t.id)
	}
	if t.byKey.Len() > 0 {
		if last, _, _ := t.byKey.Max(); last >= key {
			return fmt.Errorf("%s %s comes after %s", t.id, key, last)
		}
	}
	t.byKey.Load(key, row)
	return nil
}

// index fills the table's indexes and its names after the last call of load. It sorts the rows
// first, which is several times faster than inserting row by row.
func (t *trees[T]) index() error {
	all := t.byKey.Values()
	for _, x := range t.indexes {
		in := make([]T, 0, len(all))
		for _, r := range all {
			if x.has(r) {
				in = append(in, r)
			}
		}
		slices.SortFunc(in, func(a, b T) int {
			switch {
			case x.less(a, b):
				return -1
			case x.less(b, a):
				return 1
			}
			return 0
		})
		x.tree = btree.NewBTreeGOptions(x.less, btree.Options{NoLocks: true})
		for _, r := range in {
			x.tree.Load(r)
		}
	}
	if t.byName == nil {
		return nil
	}
	for _, r := range all {
		name := t.nameOf(r)
		if name == "" {
			continue
		}
		if other, taken := t.byName.Set(name, r); taken {
			return fmt.Errorf("%s name %q belongs to %s and %s", t.id, name, t.key(other), t.key(r))
		}
	}
	return nil
}

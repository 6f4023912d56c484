package table

import (
	"iter"
	"strings"

	"github.com/tidwall/btree"

	swarmv1 "swarm/proto/swarm/v1"
)

// Rows are the rows of one table in a View, ordered by key. They are immutable and safe for
// concurrent use. The zero value has no rows.
type Rows[T Row] struct {
	trees *trees[T] // a frozen copy
}

// Get returns the row with the key.
func (t Rows[T]) Get(key string) (T, bool) {
	if t.trees == nil {
		var none T
		return none, false
	}
	return t.trees.byKey.Get(key)
}

// ByName returns the row with the unique name. Case does not matter for services and networks,
// because containers look them up in DNS, which ignores case. ByName finds nothing in a table whose
// rows have no unique names.
func (t Rows[T]) ByName(name string) (T, bool) {
	if t.trees == nil || t.trees.byName == nil {
		var none T
		return none, false
	}
	return t.trees.byName.Get(t.trees.fold(name))
}

// ascend yields the rows of an index in its order. It begins at the position of the row from, and
// ends before the first row for which in returns false.
func (t Rows[T]) ascend(index int, from T, in func(T) bool) iter.Seq[T] {
	return func(yield func(T) bool) {
		if t.trees != nil {
			t.trees.indexes[index].tree.Ascend(from, func(r T) bool { return in(r) && yield(r) })
		}
	}
}

// Len returns the number of rows.
func (t Rows[T]) Len() int {
	if t.trees == nil {
		return 0
	}
	return t.trees.byKey.Len()
}

// All yields every row, ordered by key.
func (t Rows[T]) All() iter.Seq[T] {
	return func(yield func(T) bool) {
		if t.trees != nil {
			t.trees.byKey.Scan(func(_ string, r T) bool { return yield(r) })
		}
	}
}

// Prefix yields the rows whose keys start with p, ordered by key.
func (t Rows[T]) Prefix(p string) iter.Seq[T] {
	return func(yield func(T) bool) {
		if t.trees != nil {
			t.trees.byKey.Ascend(p, func(k string, r T) bool { return strings.HasPrefix(k, p) && yield(r) })
		}
	}
}

// trees is a table with its indexes. Apply writes to the trees of the State. A View has a frozen
// copy.
type trees[T Row] struct {
	schema[T]
	byKey   *btree.Map[string, T]
	byName  *btree.Map[string, T] // by folded name; nil if the kind has no unique name
	indexes []*index[T]
	frozen  *trees[T] // the copy that freeze has returned; nil after a write
}

func newTrees[T Row](s schema[T], indexes ...*index[T]) *trees[T] {
	r := &trees[T]{schema: s, byKey: &btree.Map[string, T]{}, indexes: indexes}
	if s.name != nil {
		r.byName = &btree.Map[string, T]{}
	}
	return r
}

// anyTrees is a table without its type parameter, for applying the log.
type anyTrees interface {
	get(key string) Row
	put(key string, r Row) (old Row)
	remove(key string) (old Row)
	nameHolder(r Row) string
	givenName(r Row) string
	stamp(r Row, m *swarmv1.Meta)
	load(r Row) error
	index() error
}

// freeze returns a copy of the table for a View. The copy shares the nodes of the trees, so it
// costs a few words. Each later write to the table copies the path to its row. If the table was not
// written since the last call, freeze returns the same copy.
func (t *trees[T]) freeze() *trees[T] {
	if t.frozen != nil {
		return t.frozen
	}
	t.frozen = &trees[T]{schema: t.schema, byKey: t.byKey.Copy()}
	if t.byName != nil {
		t.frozen.byName = t.byName.Copy()
	}
	for _, x := range t.indexes {
		t.frozen.indexes = append(t.frozen.indexes, &index[T]{less: x.less, has: x.has, tree: x.tree.Copy()})
	}
	return t.frozen
}

func (t *trees[T]) get(key string) Row {
	if r, ok := t.byKey.Get(key); ok {
		return r
	}
	return nil // not the zero T: a Row that holds a nil pointer is not equal to nil
}

// nameHolder returns the key of another row that has the unique name of r, or "" if the name is
// free.
func (t *trees[T]) nameHolder(r Row) string {
	if t.byName == nil {
		return ""
	}
	row := r.(T)
	name := t.nameOf(row)
	if name == "" {
		return ""
	}
	if other, ok := t.byName.Get(name); ok && t.key(other) != t.key(row) {
		return t.key(other)
	}
	return ""
}

// nameOf returns the row's unique name in the form in which names are compared.
func (t *trees[T]) nameOf(row T) string { return t.fold(t.name(row)) }

// givenName returns the row's unique name as it was given, or "".
func (t *trees[T]) givenName(r Row) string {
	if t.name == nil {
		return ""
	}
	return t.name(r.(T))
}

func (t *trees[T]) put(key string, r Row) Row {
	t.frozen = nil
	row := r.(T)
	old, existed := t.byKey.Set(key, row)
	if t.byName != nil {
		name := t.nameOf(row)
		if existed {
			if was := t.nameOf(old); was != name && was != "" {
				t.byName.Delete(was)
			}
		}
		if name != "" {
			t.byName.Set(name, row)
		}
	}
	for _, x := range t.indexes {
		if existed && x.has(old) && (!x.has(row) || x.less(old, row) || x.less(row, old)) {
			x.tree.Delete(old)
		}
		if x.has(row) {
			x.tree.Set(row)
		}
	}
	if !existed {
		return nil
	}
	return old
}

func (t *trees[T]) remove(key string) Row {
	t.frozen = nil
	old, existed := t.byKey.Delete(key)
	if !existed {
		return nil
	}
	if t.byName != nil {
		if name := t.nameOf(old); name != "" {
			t.byName.Delete(name)
		}
	}
	for _, x := range t.indexes {
		if x.has(old) {
			x.tree.Delete(old)
		}
	}
	return old
}

package table

import (
	"iter"
	"strings"

	"github.com/tidwall/btree"

	swarmv1 "swarm/proto/swarm/v1"
)

// Table is the rows of one kind in a View, ordered by key. It is immutable and safe for concurrent
// use. The zero Table is empty.
type Rows[T Row] struct {
	rows *rows[T] // a frozen copy
}

// Get returns the row with the key.
func (t Rows[T]) Get(key string) (T, bool) {
	if t.rows == nil {
		var none T
		return none, false
	}
	return t.rows.tree.Get(key)
}

// byName returns the row with the unique name, in the form in which schema.name returns it.
func (t Rows[T]) byName(name string) (T, bool) {
	if t.rows == nil || t.rows.names == nil {
		var none T
		return none, false
	}
	return t.rows.names.Get(name)
}

// ascend yields the rows of an index from a row on, while in returns true for them.
func (t Rows[T]) ascend(index int, from T, in func(T) bool) iter.Seq[T] {
	return func(yield func(T) bool) {
		if t.rows != nil {
			t.rows.indexes[index].tree.Ascend(from, func(r T) bool { return in(r) && yield(r) })
		}
	}
}

// Len returns the number of rows.
func (t Rows[T]) Len() int {
	if t.rows == nil {
		return 0
	}
	return t.rows.tree.Len()
}

// All yields every row, ordered by key.
func (t Rows[T]) All() iter.Seq[T] {
	return func(yield func(T) bool) {
		if t.rows != nil {
			t.rows.tree.Scan(func(_ string, r T) bool { return yield(r) })
		}
	}
}

// Prefix yields the rows whose keys start with p, ordered by key.
func (t Rows[T]) Prefix(p string) iter.Seq[T] {
	return func(yield func(T) bool) {
		if t.rows != nil {
			t.rows.tree.Ascend(p, func(k string, r T) bool { return strings.HasPrefix(k, p) && yield(r) })
		}
	}
}

// rows is a table with its indexes. Apply writes the rows of the state; the rows in a View are a
// frozen copy.
type rows[T Row] struct {
	schema[T]
	tree    *btree.Map[string, T]
	names   *btree.Map[string, T] // nil if the kind has no unique name
	indexes []*index[T]
	frozen  *rows[T] // the copy that freeze has returned; nil after a write
}

// index is a second order over the same rows. It holds pointers to rows, not keys.
type index[T Row] struct {
	less func(a, b T) bool // a total order: ties are broken by key
	has  func(T) bool      // whether the index includes the row
	tree *btree.BTreeG[T]
}

func newIndex[T Row](less func(a, b T) bool, has func(T) bool) *index[T] {
	return &index[T]{less: less, has: has, tree: btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})}
}

func newRows[T Row](s schema[T], indexes ...*index[T]) *rows[T] {
	r := &rows[T]{schema: s, tree: &btree.Map[string, T]{}, indexes: indexes}
	if s.name != nil {
		r.names = &btree.Map[string, T]{}
	}
	return r
}

// anyRows is a table without its type parameter, for applying the log.
type anyRows interface {
	get(key string) Row
	put(key string, r Row) (old Row)
	remove(key string) (old Row)
	nameHolder(r Row) string
	stamp(r Row, m *swarmv1.Meta)
	load(r Row) error
	index() error
}

// freeze returns a copy of the table for a View. The trees of both share their nodes: a copy costs a
// few words now, and later each write copies the path to its row. If the table was not written since
// the last call, freeze returns the same copy.
func (t *rows[T]) freeze() *rows[T] {
	if t.frozen != nil {
		return t.frozen
	}
	t.frozen = &rows[T]{schema: t.schema, tree: t.tree.Copy()}
	if t.names != nil {
		t.frozen.names = t.names.Copy()
	}
	for _, x := range t.indexes {
		t.frozen.indexes = append(t.frozen.indexes, &index[T]{less: x.less, has: x.has, tree: x.tree.Copy()})
	}
	return t.frozen
}

func (t *rows[T]) get(key string) Row {
	if r, ok := t.tree.Get(key); ok {
		return r
	}
	return nil // not a nil T in an interface
}

// nameHolder returns the key of another row that has the unique name of r, or "" if the name is
// free.
func (t *rows[T]) nameHolder(r Row) string {
	if t.names == nil {
		return ""
	}
	row := r.(T)
	name := t.name(row)
	if name == "" {
		return ""
	}
	if other, ok := t.names.Get(name); ok && t.key(other) != t.key(row) {
		return t.key(other)
	}
	return ""
}

func (t *rows[T]) put(key string, r Row) Row {
	t.frozen = nil
	row := r.(T)
	old, existed := t.tree.Set(key, row)
	if t.names != nil {
		name := t.name(row)
		if existed {
			if was := t.name(old); was != name && was != "" {
				t.names.Delete(was)
			}
		}
		if name != "" {
			t.names.Set(name, row)
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

func (t *rows[T]) remove(key string) Row {
	t.frozen = nil
	old, existed := t.tree.Delete(key)
	if !existed {
		return nil
	}
	if t.names != nil {
		if name := t.name(old); name != "" {
			t.names.Delete(name)
		}
	}
	for _, x := range t.indexes {
		if x.has(old) {
			x.tree.Delete(old)
		}
	}
	return old
}

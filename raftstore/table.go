package raftstore

import (
	"iter"
	"strings"

	"github.com/tidwall/btree"

	swarmv1 "swarm/proto/swarm/v1"
)

// Table is the rows of one kind in a View, ordered by key. It is immutable and safe for concurrent
// use.
type Table[T Row] struct {
	tree *btree.Map[string, T]
}

// Get returns the row with the key.
func (t Table[T]) Get(key string) (T, bool) {
	if t.tree == nil {
		var none T
		return none, false
	}
	return t.tree.Get(key)
}

// Len returns the number of rows.
func (t Table[T]) Len() int {
	if t.tree == nil {
		return 0
	}
	return t.tree.Len()
}

// All yields every row, ordered by key.
func (t Table[T]) All() iter.Seq[T] {
	return func(yield func(T) bool) {
		if t.tree != nil {
			t.tree.Scan(func(_ string, r T) bool { return yield(r) })
		}
	}
}

// Prefix yields the rows whose keys start with p, ordered by key.
func (t Table[T]) Prefix(p string) iter.Seq[T] {
	return func(yield func(T) bool) {
		if t.tree != nil {
			t.tree.Ascend(p, func(k string, r T) bool { return strings.HasPrefix(k, p) && yield(r) })
		}
	}
}

// rows is a table that Apply writes, with its indexes. Only Apply uses it. Before it writes trees
// that a View shares, it copies them (copyIfShared).
type rows[T Row] struct {
	schema[T]
	tree    *btree.Map[string, T]
	names   *btree.Map[string, T] // nil if the kind has no unique name
	indexes []*index[T]
	shared  bool // a View that somebody may hold has these trees
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
	share()
}

// copyIfShared makes the trees writable: it copies them if a View shares them. The copy is lazy: it
// costs a few words now, and later each write copies the path to its row. Copying also writes to
// the source tree, so only Apply may copy.
func (t *rows[T]) copyIfShared() {
	if !t.shared {
		return
	}
	t.shared = false
	t.tree = t.tree.Copy()
	if t.names != nil {
		t.names = t.names.Copy()
	}
	for i, x := range t.indexes {
		t.indexes[i] = &index[T]{less: x.less, has: x.has, tree: x.tree.Copy()}
	}
}

func (t *rows[T]) share() { t.shared = true }

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
	t.copyIfShared()
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
	t.copyIfShared()
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

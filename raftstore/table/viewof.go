package table

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
)

// ViewOf builds a view that holds objs: for tests, for simulations, and for events of objects that
// were removed. An object without a version gets version 1, in place. ViewOf panics if an object is
// not a row, or if two objects have the same key or the same unique name.
func ViewOf(objs ...proto.Message) *View {
	type keyed struct {
		key string
		row Row
	}
	var sorted [idLimit][]keyed
	for _, o := range objs {
		table, wrapped := wrap(o)
		if wrapped == nil {
			panic(fmt.Sprintf("table: %T is no row", o))
		}
		sorted[table] = append(sorted[table], keyed{Key(o), o.(Row)})
	}
	st := NewState()
	st.index = 1
	for id, t := range st.tables.byID {
		if t == nil {
			continue
		}
		rows := sorted[id]
		slices.SortFunc(rows, func(a, b keyed) int { return strings.Compare(a.key, b.key) })
		for _, r := range rows {
			m := r.row.GetMeta()
			st.index = max(st.index, m.GetVersion())
			if m.GetVersion() == 0 {
				t.stamp(r.row, &swarmv1.Meta{Version: 1, CreatedAt: m.GetCreatedAt(), UpdatedAt: m.GetUpdatedAt()})
			}
			if err := t.load(r.row); err != nil {
				panic("table: " + err.Error())
			}
		}
		if err := t.index(); err != nil {
			panic("table: " + err.Error())
		}
	}
	return st.View()
}

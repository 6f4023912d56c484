package raftstore

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
)

// ViewOf builds a view that holds the objects, for tests and simulations: they become rows as they are, and those
// without a version get version 1. It panics on what no state can hold: two objects of one key, a name taken twice.
func ViewOf(objs ...proto.Message) *View {
	sorted := make([][]Row, tables)
	for _, o := range objs {
		table, wrapped := wrap(o)
		if wrapped == nil {
			panic(fmt.Sprintf("raftstore: %T is no row", o))
		}
		sorted[table] = append(sorted[table], o.(Row))
	}
	st := newState()
	st.index = 1
	for id, rows := range sorted {
		keys := make(map[Row]string, len(rows))
		for _, r := range rows {
			keys[r] = Key(r)
			st.index = max(st.index, r.GetMeta().GetVersion())
		}
		slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(keys[a], keys[b]) })
		for _, r := range rows {
			if r.GetMeta().GetVersion() == 0 {
				st.all[id].stamp(r, &swarmv1.Meta{Version: 1, CreatedAt: r.GetMeta().GetCreatedAt(), UpdatedAt: r.GetMeta().GetUpdatedAt()})
			}
			if err := st.all[id].load(r); err != nil {
				panic("raftstore: " + err.Error())
			}
		}
		if id == 0 {
			continue
		}
		if err := st.all[id].index(); err != nil {
			panic("raftstore: " + err.Error())
		}
	}
	return st.view()
}

//go:build linux

package fabric

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"

	"swarm/overlay/vxlan"
)

// remoteTasks are the tasks of a network on other hosts, and the entries for them. The entries
// depend only on the set of tasks, not on the order in which the tasks were added.
type remoteTasks struct {
	all   map[string]Endpoint // by task
	table vxlan.Table
	// conflict is whether two tasks claim the same address, which can happen while one replaces the
	// other. Each change then rebuilds the table, because an entry that is removed for one task may
	// belong to the other.
	conflict bool
}

// validate returns ErrInvalidArgument if a field is missing.
func (e Endpoint) validate() error {
	if e.TaskID == "" || len(e.Addresses) == 0 || !e.Host.IsValid() {
		return fmt.Errorf("task %q with addresses %v on host %s: id, address or host is missing: %w", e.TaskID, e.Addresses, e.Host, errdefs.ErrInvalidArgument)
	}
	return nil
}

// newRemoteTasks returns the remote tasks that endpoints lists, with their entries.
func newRemoteTasks(endpoints []Endpoint) *remoteTasks {
	m := &remoteTasks{all: make(map[string]Endpoint, len(endpoints)), table: vxlan.NewTable(len(endpoints))}
	for _, e := range endpoints {
		m.all[e.TaskID] = e
	}
	m.rebuild()
	return m
}

// rebuild builds the table of all tasks. If several tasks claim an address, the table has the entry
// of the task with the highest id.
func (m *remoteTasks) rebuild() {
	m.table, m.conflict = vxlan.NewTable(len(m.all)), false
	for _, e := range m.all {
		m.add(e)
	}
	if !m.conflict {
		return
	}
	m.table = vxlan.NewTable(len(m.all))
	for _, e := range slices.SortedFunc(maps.Values(m.all), func(a, b Endpoint) int { return cmp.Compare(a.TaskID, b.TaskID) }) {
		m.add(e)
	}
}

// add adds the entries of a task to the table.
func (m *remoteTasks) add(e Endpoint) {
	_, claimed := m.table.Forward[vxlan.MACOf(e.Addresses[0])]
	for _, a := range e.Addresses {
		_, also := m.table.Neighbours[a]
		claimed = claimed || also
	}
	m.conflict = m.conflict || claimed
	m.table.Add(e.Host.Unmap(), e.Addresses...)
}

// apply adds or moves the tasks in placed, and removes those in gone. changed has the former and
// the new endpoints of these tasks, whose entries may have changed. If all is true, any entry of
// the table may have changed.
func (m *remoteTasks) apply(placed []Endpoint, gone []string) (changed []Endpoint, all bool) {
	remove := func(task string) {
		if old, ok := m.all[task]; ok {
			delete(m.all, task)
			m.table.Remove(old.Addresses...)
			changed = append(changed, old)
		}
	}
	for _, task := range gone {
		remove(task)
	}
	for _, e := range placed {
		remove(e.TaskID)
		m.all[e.TaskID] = e
		m.add(e)
	}
	if m.conflict {
		m.rebuild()
		return nil, true
	}
	return append(changed, placed...), false
}

// subset returns the entries that a table has for some endpoints.
func subset(t vxlan.Table, endpoints []Endpoint) vxlan.Table {
	out := vxlan.NewTable(len(endpoints))
	for _, e := range endpoints {
		mac := vxlan.MACOf(e.Addresses[0])
		if host, ok := t.Forward[mac]; ok {
			out.Forward[mac] = host
		}
		for _, a := range e.Addresses {
			if mac, ok := t.Neighbours[a]; ok {
				out.Neighbours[a] = mac
			}
		}
	}
	return out
}

// replace removes the entries of some endpoints from a table, and adds the entries in now.
func replace(t vxlan.Table, endpoints []Endpoint, now vxlan.Table) {
	for _, e := range endpoints {
		t.Remove(e.Addresses...)
	}
	maps.Copy(t.Forward, now.Forward)
	maps.Copy(t.Neighbours, now.Neighbours)
}

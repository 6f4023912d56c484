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

// members are the tasks of a network on other hosts, and the entries for them. The entries depend
// on the set of members only, and not on the order in which they were added.
type members struct {
	all   map[string]Endpoint // by task
	table vxlan.Table
	// conflict is whether two tasks claim the same address, as may be while one replaces the other.
	// The table is then built anew with each change, because an entry that is removed for one task
	// may belong to the other.
	conflict bool
}

// validate returns ErrInvalidArgument if a field is missing.
func (e Endpoint) validate() error {
	if e.TaskID == "" || len(e.Addresses) == 0 || !e.Host.IsValid() {
		return fmt.Errorf("task %q with addresses %v on host %s: id, address or host is missing: %w", e.TaskID, e.Addresses, e.Host, errdefs.ErrInvalidArgument)
	}
	return nil
}

// newMembers returns the members that endpoints are.
func newMembers(endpoints []Endpoint) *members {
	m := &members{all: make(map[string]Endpoint, len(endpoints)), table: vxlan.NewTable(len(endpoints))}
	for _, e := range endpoints {
		m.all[e.TaskID] = e
	}
	m.rebuild()
	return m
}

// rebuild builds the table of all members. If several tasks claim an address, the task with the
// highest id has it.
func (m *members) rebuild() {
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
func (m *members) add(e Endpoint) {
	_, claimed := m.table.Forward[vxlan.MACOf(e.Addresses[0])]
	for _, a := range e.Addresses {
		_, also := m.table.Neighbours[a]
		claimed = claimed || also
	}
	m.conflict = m.conflict || claimed
	m.table.Add(e.Host.Unmap(), e.Addresses...)
}

// apply adds or moves the tasks in there and removes those in gone. It returns the former and
// present endpoints whose entries may have changed. If all is true, any entry may have.
func (m *members) apply(there []Endpoint, gone []string) (changed []Endpoint, all bool) {
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
	for _, e := range there {
		remove(e.TaskID)
		m.all[e.TaskID] = e
		m.add(e)
	}
	if m.conflict {
		m.rebuild()
		return nil, true
	}
	return append(changed, there...), false
}

// subset returns the entries of a table for some endpoints.
func subset(t vxlan.Table, of []Endpoint) vxlan.Table {
	out := vxlan.NewTable(len(of))
	for _, e := range of {
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

// replace replaces the entries of a table for some endpoints by those in now, and leaves the
// others.
func replace(t vxlan.Table, of []Endpoint, now vxlan.Table) {
	for _, e := range of {
		t.Remove(e.Addresses...)
	}
	maps.Copy(t.Forward, now.Forward)
	maps.Copy(t.Neighbours, now.Neighbours)
}

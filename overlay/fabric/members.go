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

// members are a network's tasks on other hosts, and the entries that they make. What they make depends on who is a member,
// and not on what came first.
type members struct {
	all   map[string]Endpoint // by task
	table vxlan.Table
	// contested: two tasks claim the same address, as may be while one takes the other's place. The table is then made
	// of all anew with each change: what is taken away from one may be the other's.
	contested bool
}

func (e Endpoint) validate() error {
	if e.TaskID == "" || len(e.Addresses) == 0 || !e.Host.IsValid() {
		return fmt.Errorf("endpoint %q, %v at %s: %w", e.TaskID, e.Addresses, e.Host, errdefs.ErrInvalidArgument)
	}
	return nil
}

func newMembers(endpoints []Endpoint) *members {
	m := &members{all: make(map[string]Endpoint, len(endpoints)), table: vxlan.NewTable(len(endpoints))}
	for _, e := range endpoints {
		m.all[e.TaskID] = e
	}
	m.rebuild()
	return m
}

// rebuild makes the table of all members; the last task in order has an address that several claim.
func (m *members) rebuild() {
	m.table, m.contested = vxlan.NewTable(len(m.all)), false
	for _, e := range m.all {
		m.enter(e)
	}
	if !m.contested {
		return
	}
	m.table = vxlan.NewTable(len(m.all))
	for _, e := range slices.SortedFunc(maps.Values(m.all), func(a, b Endpoint) int { return cmp.Compare(a.TaskID, b.TaskID) }) {
		m.enter(e)
	}
}

func (m *members) enter(e Endpoint) {
	_, taken := m.table.Forward[vxlan.MACOf(e.Addresses[0])]
	for _, a := range e.Addresses {
		_, also := m.table.Neighbours[a]
		taken = taken || also
	}
	m.contested = m.contested || taken
	m.table.Add(e.Host.Unmap(), e.Addresses...)
}

// change takes over who came or is elsewhere, and who is gone. It returns the members of before and of now that the change
// of the table is about; all: it may differ anywhere.
func (m *members) change(there []Endpoint, gone []string) (about []Endpoint, all bool) {
	leave := func(task string) {
		if old, ok := m.all[task]; ok {
			delete(m.all, task)
			m.table.Remove(old.Addresses...)
			about = append(about, old)
		}
	}
	for _, task := range gone {
		leave(task)
	}
	for _, e := range there {
		leave(e.TaskID)
		m.all[e.TaskID] = e
		m.enter(e)
	}
	if m.contested {
		m.rebuild()
		return nil, true
	}
	return append(about, there...), false
}

// part is the table's entries for some endpoints.
func part(t vxlan.Table, of []Endpoint) vxlan.Table {
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

// replace makes a table's entries for some endpoints those of now, and leaves the others.
func replace(t vxlan.Table, of []Endpoint, now vxlan.Table) {
	for _, e := range of {
		t.Remove(e.Addresses...)
	}
	maps.Copy(t.Forward, now.Forward)
	maps.Copy(t.Neighbours, now.Neighbours)
}

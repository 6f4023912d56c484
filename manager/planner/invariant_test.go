package planner

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"swarm/internal/ipam"
	"swarm/internal/publish"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

func protoOf(m proto.Message) protoreflect.Value {
	return protoreflect.ValueOfMessage(m.ProtoReflect())
}

// check tests the invariants that hold after every commit: no slot has two tasks that should run,
// except in a start-first replacement; no node has more reservations than capacity; every task has
// a status; every host port is claimed once.
func (m *model) check() {
	m.t.Helper()
	m.checkSlots()
	m.checkReservations()
	m.checkAddresses()
	m.checkVolumes()
	for k := range m.rows {
		if id, ok := strings.CutPrefix(k, "5/"); ok && m.rows["6/"+id] == nil {
			m.t.Fatalf("task %s has no status", id)
		}
		if id, ok := strings.CutPrefix(k, "6/"); ok && m.rows["5/"+id] == nil {
			m.t.Fatalf("status %s has no task", id)
		}
	}
}

func (m *model) checkSlots() {
	m.t.Helper()
	live := map[string]*swarmv1.Task{}
	for _, t := range m.tasks() {
		if t.DesiredState > swarmv1.TaskState_RUNNING {
			continue
		}
		slot := fmt.Sprintf("%s.%d", t.ServiceId, t.Slot)
		if t.Slot == 0 {
			slot = t.ServiceId + "." + t.NodeId
		}
		if o := live[slot]; o != nil && t.Replaces != o.Id && o.Replaces != t.Id {
			m.t.Fatalf("slot %s has two tasks:\n%s", slot, m.String())
		}
		live[slot] = t
	}
}

// wantedRunning returns the tasks with the desired state RUNNING.
func (m *model) wantedRunning() map[string]bool {
	out := map[string]bool{}
	for _, t := range m.tasks() {
		if t.DesiredState == swarmv1.TaskState_RUNNING {
			out[t.Id] = true
		}
	}
	return out
}

// checkStarts tests that a plan set no task to RUNNING too early. No other task of the slot may
// still run on a node that is up, except in a start-first replacement. The successor of a rejected
// task has no node before its start_after.
func (m *model) checkStarts(before map[string]bool) {
	m.t.Helper()
	slots := map[string][]*swarmv1.Task{}
	for _, t := range m.tasks() {
		slot := fmt.Sprintf("%s.%d", t.ServiceId, t.Slot)
		if t.Slot == 0 {
			slot = t.ServiceId + "." + t.NodeId
		}
		slots[slot] = append(slots[slot], t)
	}
	for slot, list := range slots {
		live, stopping := 0, 0
		for _, t := range list {
			st, node := m.status(t.Id).State, m.rows["2/"+t.NodeId]
			switch state, _ := node.(*swarmv1.NodeState); {
			case t.DesiredState <= swarmv1.TaskState_RUNNING:
				live++
			case m.rows["1/"+t.NodeId] != nil && state.GetState() != swarmv1.NodeState_DOWN && st >= swarmv1.TaskState_ASSIGNED && st <= swarmv1.TaskState_RUNNING:
				stopping++
			}
		}
		for _, t := range list {
			st := m.status(t.Id).State
			if t.DesiredState != swarmv1.TaskState_RUNNING || before[t.Id] || st > swarmv1.TaskState_RUNNING {
				continue
			}
			if live == 1 && stopping > 0 {
				m.t.Fatalf("slot %s runs one task while another stops:\n%s", slot, m)
			}
			if old := m.status(t.Replaces); old.GetState() == swarmv1.TaskState_REJECTED && !spec.LacksImage(old.GetErr()) && t.Restarts.GetAttempts() > 0 && st > swarmv1.TaskState_PENDING && t.StartAfter.AsTime().After(m.now) {
				m.t.Fatalf("slot %s follows a rejected task before its time:\n%s", slot, m)
			}
		}
	}
}

func (m *model) checkReservations() {
	m.t.Helper()
	type sum struct{ cpu, memory int64 }
	used := map[string]sum{}
	ports := map[string]string{}
	for _, t := range m.tasks() {
		st := m.status(t.Id)
		if t.NodeId == "" || st.State > swarmv1.TaskState_RUNNING || st.State < swarmv1.TaskState_ASSIGNED {
			continue
		}
		rev := m.rows[fmt.Sprintf("4/%s/%010d", t.ServiceId, t.Revision)].(*swarmv1.Revision)
		res := rev.Spec.GetTaskTemplate().GetResources().GetReservations()
		u := used[t.NodeId]
		used[t.NodeId] = sum{u.cpu + res.GetNanoCpus(), u.memory + res.GetMemoryBytes()}
		for _, p := range rev.Spec.GetEndpointSpec().GetPorts() {
			k := t.NodeId + " " + publish.NodeKey("", p).Suffix()
			if p.PublishMode == swarmv1.PortConfig_HOST && p.PublishedPort != 0 {
				if ports[k] != "" {
					m.t.Fatalf("port %s has two tasks:\n%s", k, m.String())
				}
				ports[k] = t.Id
			}
		}
	}
	for id, u := range used {
		s, _ := m.rows["2/"+id].(*swarmv1.NodeState)
		has := s.GetDescription().GetResources()
		if s != nil && (u.cpu > has.GetNanoCpus() || u.memory > has.GetMemoryBytes()) {
			m.t.Fatalf("node %s has more reservations than capacity: %v of %v", id, u, has)
		}
	}
}

// checkAddresses tests that every task that may run is the only holder of its addresses.
func (m *model) checkAddresses() {
	m.t.Helper()
	for _, t := range m.tasks() {
		st := m.status(t.Id)
		if st.State > swarmv1.TaskState_RUNNING || st.State < swarmv1.TaskState_ASSIGNED {
			continue
		}
		for _, n := range t.Networks {
			row, ok := m.rows["7/"+n.NetworkId].(*swarmv1.Network)
			if !ok {
				continue
			}
			if len(n.Addresses) != len(row.Ipam.Configs) {
				m.t.Fatalf("task %s has addresses %v on network %s, want %d:\n%s", t.Id, n.Addresses, n.NetworkId, len(row.Ipam.Configs), m)
			}
			for _, text := range n.Addresses {
				a, err := ipam.ParseAddr(text)
				if err != nil {
					m.t.Fatal(err)
				}
				c, _ := m.rows["9/"+ipam.Key(n.NetworkId, a)].(*swarmv1.Claim)
				if c.GetOwner() != "task/"+t.Id {
					m.t.Fatalf("address %s of task %s belongs to %q:\n%s", text, t.Id, c.GetOwner(), m)
				}
			}
		}
	}
}

// claims counts the claims of addresses by the kind of their owners.
func (m *model) claims() map[string]int {
	out := map[string]int{}
	for _, row := range m.rows {
		if c, ok := row.(*swarmv1.Claim); ok && strings.HasPrefix(c.Key, "addr/") {
			kind, _, _ := strings.Cut(c.Owner, "/")
			out[kind]++
		}
	}
	return out
}

// String lists the tasks, with short ids.
func (m *model) String() string {
	var b strings.Builder
	names := map[string]string{}
	short := func(id string) string {
		if names[id] == "" {
			names[id] = fmt.Sprintf("t%d", len(names)+1)
		}
		return names[id]
	}
	for _, t := range m.tasks() {
		st := m.status(t.Id)
		fmt.Fprintf(&b, "%s %s.%d r%d on %s: %s, wants %s", short(t.Id), t.ServiceId, t.Slot, t.Revision, orDash(t.NodeId), st.State, t.DesiredState)
		if t.Replaces != "" {
			fmt.Fprintf(&b, ", replaces %s", short(t.Replaces))
		}
		if s := t.StartAfter; s != nil {
			fmt.Fprintf(&b, ", from %s", s.AsTime().Sub(epoch))
		}
		if a := t.GetRestarts().GetAttempts(); a > 0 {
			fmt.Fprintf(&b, ", attempt %d", a)
		}
		if st.Err != "" {
			fmt.Fprintf(&b, ", %s", st.Err)
		}
		if n := st.GetUnplaced().GetNearest(); n != "" {
			fmt.Fprintf(&b, "; nearest %s", n)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

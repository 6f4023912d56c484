package top

import (
	"cmp"
	"fmt"
	"slices"

	"swarm/cli/stats"
	"swarm/cli/term"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
)

// row is a line of a list.
type row struct {
	key, name   string
	cells       []string
	cpu, memory float64 // for the order
}

// column is a column of a list. The first column of a list gets the width that the others leave.
type column struct {
	title string
	width int
	right bool // numbers are aligned to the right
}

func (t tab) title() string { return [...]string{"Nodes", "Services", "Tasks"}[t] }

// columns returns the columns of a list. Those after the first need at most 65 cells, so that names
// have 15 of the 80 cells of the smallest terminal.
func (t tab) columns() []column {
	switch t {
	case nodesTab:
		return []column{
			{"NAME", 0, false}, {"STATE", 7, false}, {"ROLE", 7, false}, {"AVAIL", 6, false}, {"TASKS", 5, true}, {"CPU %", 6, true}, {"MEM USAGE / LIMIT", 19, true}, {"LOAD", 5, true},
		}
	case servicesTab:
		return []column{
			{"NAME", 0, false}, {"MODE", 14, false}, {"REPLICAS", 9, true}, {"CPU %", 7, true}, {"MEM", 8, true}, {"NET IN/s", 9, true}, {"OUT/s", 9, true},
		}
	}
	return []column{
		{"NAME", 0, false}, {"NODE", 10, false}, {"STATE", 8, false}, {"CPU %", 7, true}, {"MEM", 8, true}, {"MEM %", 6, true}, {"NET IN/s", 8, true}, {"OUT/s", 8, true},
	}
}

// use is what a task uses, or several together.
type use struct {
	cpu, in, out float64
	memory       uint64
	tasks        int
	known        bool // cpu, in and out
}

func (u *use) add(o use) {
	u.cpu, u.in, u.out, u.memory, u.tasks, u.known = u.cpu+o.cpu, u.in+o.in, u.out+o.out, u.memory+o.memory, u.tasks+o.tasks, u.known || o.known
}

func (s *snapshot) use(t *swarmv1.TaskStats) use {
	if t.GetUsage() == nil {
		return use{}
	}
	l := s.loads[t.GetTaskId()]
	return use{cpu: l.CPU, in: l.Received, out: l.Sent, known: l.Known, memory: t.GetUsage().GetMemory(), tasks: 1}
}

const unknown = "--"

func (u use) percent() string {
	if !u.known {
		return unknown
	}
	return fmt.Sprintf("%.1f", u.cpu)
}

func (u use) bytes() string {
	if u.tasks == 0 {
		return unknown
	}
	return stats.Memory(u.memory)
}

// traffic returns the bytes a second, received and sent.
func (u use) traffic() (in, out string) {
	if !u.known {
		return unknown, unknown
	}
	return stats.Bytes(uint64(u.in)), stats.Bytes(uint64(u.out))
}

// rows returns the lines of the list that is shown, in their order.
func (m model) rows() []row {
	if m.snapshot == nil {
		return nil
	}
	var out []row
	switch m.tab {
	case nodesTab:
		out = m.snapshot.nodeRows()
	case servicesTab:
		out = m.snapshot.serviceRows()
	case tasksTab:
		out = m.snapshot.taskRows(m.scope, m.all)
	}
	slices.SortStableFunc(out, func(a, b row) int {
		switch m.order {
		case byCPU:
			return cmp.Or(cmp.Compare(b.cpu, a.cpu), cmp.Compare(a.name, b.name))
		case byMemory:
			return cmp.Or(cmp.Compare(b.memory, a.memory), cmp.Compare(a.name, b.name))
		}
		return cmp.Compare(a.name, b.name)
	})
	return out
}

func (s *snapshot) nodeRows() (out []row) {
	hosts := map[string]*swarmv1.HostStats{}
	for _, h := range s.stats.GetNodes() {
		hosts[h.GetNodeId()] = h
	}
	tasks := map[string]int{}
	for _, t := range s.stats.GetTasks() {
		if t.GetState() == swarmv1.TaskState_RUNNING {
			tasks[t.GetNodeId()]++
		}
	}
	for _, n := range s.nodes {
		id := n.GetNode().GetId()
		role := term.EnumWord(n.GetNode().GetSpec().GetRole())
		if n.GetManagerStatus().GetLeader() {
			role = "leader"
		}
		r := row{key: id, name: term.NodeHostname(n)}
		cpu, memory, load := unknown, unknown, unknown
		if u := hosts[id].GetUsage(); u != nil {
			if l := s.loads[id]; l.Known && u.GetCpus() > 0 {
				r.cpu = l.CPU / float64(u.GetCpus())
				cpu = fmt.Sprintf("%.1f", r.cpu)
			}
			r.memory = float64(u.GetMemory())
			memory = stats.Memory(u.GetMemory()) + " / " + stats.Memory(u.GetMemoryLimit())
			load = fmt.Sprintf("%.2f", u.GetLoad())
		}
		r.cells = []string{
			r.name, term.EnumWord(n.GetState().GetState()), role, term.EnumWord(n.GetNode().GetSpec().GetAvailability()), fmt.Sprint(tasks[id]), cpu, memory, load,
		}
		out = append(out, r)
	}
	return out
}

func (s *snapshot) serviceRows() (out []row) {
	uses := map[string]*use{}
	for _, t := range s.stats.GetTasks() {
		if uses[t.GetServiceId()] == nil {
			uses[t.GetServiceId()] = &use{}
		}
		uses[t.GetServiceId()].add(s.use(t))
	}
	for _, info := range s.services {
		svc := info.GetService()
		u := use{}
		if uses[svc.GetId()] != nil {
			u = *uses[svc.GetId()]
		}
		in, sent := u.traffic()
		out = append(out, row{key: svc.GetId(), name: svc.GetName(), cpu: u.cpu, memory: float64(u.memory), cells: []string{
			svc.GetName(), term.ModeWord(info.GetRevision().GetSpec().GetMode()),
			fmt.Sprintf("%d/%d", info.GetStatus().GetRunningTasks(), info.GetStatus().GetDesiredTasks()), u.percent(), u.bytes(), in, sent,
		}})
	}
	return out
}

func (s *snapshot) taskRows(only *scope, all bool) (out []row) {
	for _, t := range s.stats.GetTasks() {
		if !all && task.Terminal(t.GetState()) ||
			only != nil && only.id != t.GetServiceId() && only.id != t.GetNodeId() {
			continue
		}
		u := s.use(t)
		in, sent := u.traffic()
		part := unknown
		if u.tasks > 0 {
			part = fmt.Sprintf("%.1f", stats.Part(u.memory, t.GetUsage().GetMemoryLimit()))
		}
		out = append(out, row{key: t.GetTaskId(), name: t.GetName(), cpu: u.cpu, memory: float64(u.memory), cells: []string{
			t.GetName(), t.GetNodeName(), term.EnumWord(t.GetState()), u.percent(), u.bytes(), part, in, sent,
		}})
	}
	return out
}

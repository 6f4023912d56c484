package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// String returns all counters of the State in a form that tests compare.
func (state *State) String() string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(state.nodes)) {
		n := state.nodes[id]
		fmt.Fprintf(&b, "node %s cpu %d memory %d total %d ports %v", id, n.reserved.CPU, n.reserved.Memory, n.TaskCount, portsOf(n))
		for _, k := range slices.Sorted(maps.Keys(n.reserved.generic)) {
			fmt.Fprintf(&b, " %s %v", k, *n.reserved.generic[k])
		}
		rows := map[string]int32{}
		for s, c := range n.taskRows {
			rows[s.ID] = c
		}
		fmt.Fprintf(&b, " rows %v\n", rows)
	}
	for _, id := range slices.Sorted(maps.Keys(state.services)) {
		s := state.services[id]
		on := map[string]int32{}
		for n, c := range s.tasksOnNode {
			on[n.ID] = c
		}
		fmt.Fprintf(&b, "service %s waiting %d failed %d on %v:", id, s.Waiting, s.Failed, on)
		for _, sl := range s.Slots() {
			fmt.Fprintf(&b, " %v[", sl.Key)
			for _, t := range sl.Tasks {
				fmt.Fprintf(&b, " %s", t.ID)
			}
			b.WriteString(" ]")
		}
		for _, k := range slices.Sorted(maps.Keys(s.revisions)) {
			fmt.Fprintf(&b, " r%d:%d", k, s.revisions[k].tasks)
		}
		b.WriteByte('\n')
	}
	for _, id := range slices.Sorted(maps.Keys(state.networks)) {
		n := state.networks[id]
		fmt.Fprintf(&b, "network %s allocated %d cursor %v exhausted %v\n", id, n.allocated.Len(), n.cursor, n.exhausted != "")
	}
	for _, name := range slices.Sorted(maps.Keys(state.volumes)) {
		fmt.Fprintf(&b, "volume %s", name)
		for _, row := range state.volumes[name] {
			fmt.Fprintf(&b, " %s:%d", row.GetNodeId(), len(row.GetUses()))
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "tasks %d unmatched statuses %d claims %d endpoints %d waiting %d\n", len(state.tasks), len(state.unmatchedStatuses), len(state.claims), len(state.endpoints), len(state.waiting))
	return b.String()
}

func portsOf(n *Node) []string {
	var out []string
	for key := range n.ports {
		out = append(out, key.Suffix())
	}
	slices.Sort(out)
	return out
}

package planner

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// reportVolumes marks the volumes that a task mounts as reported by its node.
func (m *model) reportVolumes(t *swarmv1.Task) {
	rev := m.rows[fmt.Sprintf("4/%s/%010d", t.ServiceId, t.Revision)].(*swarmv1.Revision)
	for _, mount := range rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetMounts() {
		name := strings.ReplaceAll(mount.GetSource(), "{{.Task.Slot}}", fmt.Sprint(t.Slot))
		if row, ok := m.rows["12/"+t.NodeId+"/"+name].(*swarmv1.Volume); ok && !row.Reported {
			row = row.CloneVT()
			row.Reported = true
			m.put(row)
		}
	}
}

// reportAllVolumes does it for all running tasks, because a node reports what it has all the time.
func (m *model) reportAllVolumes() {
	for _, t := range m.tasks() {
		if m.status(t.Id).State == swarmv1.TaskState_RUNNING {
			m.reportVolumes(t)
		}
	}
}

// checkVolumes checks that a task of a slot runs on a node where the slot has used its volume, as
// long as the cluster knows the volume there.
func (m *model) checkVolumes() {
	m.t.Helper()
	maps.DeleteFunc(m.homes, func(key string, _ map[string]bool) bool {
		_, slot, _ := strings.Cut(key, " of ")
		service, _, _ := strings.Cut(slot, ".")
		return m.service(service) == nil // Another service may get the id, which real services do not.
	})
	for _, t := range m.tasks() {
		rev, _ := m.rows[fmt.Sprintf("4/%s/%010d", t.ServiceId, t.Revision)].(*swarmv1.Revision)
		if t.Slot == 0 || t.NodeId == "" || m.status(t.Id).GetState() < swarmv1.TaskState_ASSIGNED {
			continue
		}
		for _, mount := range rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetMounts() {
			name := strings.ReplaceAll(mount.GetSource(), "{{.Task.Slot}}", fmt.Sprint(t.Slot))
			key := fmt.Sprintf("%s of %s.%d", name, t.ServiceId, t.Slot)
			homes := m.homes[key]
			maps.DeleteFunc(homes, func(node string, _ bool) bool { return m.rows["12/"+node+"/"+name] == nil || m.rows["1/"+node] == nil })
			if !m.checked[t.Id] && len(homes) > 0 && !homes[t.NodeId] {
				m.t.Fatalf("task %s is on %s, and volume %s is on %v:\n%s", t.Id, t.NodeId, key, homes, m)
			}
			if m.status(t.Id).GetState() == swarmv1.TaskState_RUNNING && m.rows["12/"+t.NodeId+"/"+name] != nil {
				if homes == nil {
					homes = map[string]bool{}
					m.homes[key] = homes
				}
				homes[t.NodeId] = true
			}
		}
		m.checked[t.Id] = true
	}
}

// volumes returns the rows of the volumes, sorted by node and name.
func (m *model) volumes() string {
	var out strings.Builder
	for _, key := range slices.Sorted(maps.Keys(m.rows)) {
		row, ok := m.rows[key].(*swarmv1.Volume)
		if !ok {
			continue
		}
		fmt.Fprintf(&out, "%s on %s", row.GetName(), row.GetNodeId())
		for _, u := range row.GetUses() {
			fmt.Fprintf(&out, " %s.%d", u.GetServiceId(), u.GetSlot())
		}
		out.WriteByte('\n')
	}
	return out.String()
}

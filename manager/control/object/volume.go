package object

import (
	"cmp"
	"iter"
	"slices"

	"swarm/internal/explain"
	"swarm/internal/spec"
	"swarm/internal/template"
	"swarm/manager/control/crud"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// VolumeSubject returns what filters see of a volume. Volumes have no id besides their name.
func VolumeSubject(_ *table.View, row *swarmv1.Volume) crud.Subject {
	return crud.Subject{Names: []string{row.GetName()}, Labels: []map[string]string{row.GetLabels()}, Nodes: []string{row.GetNodeId()}}
}

// VolumeDriver returns the name of a volume's driver.
func VolumeDriver(row *swarmv1.Volume) string {
	return cmp.Or(row.GetDriver().GetName(), spec.LocalDriver)
}

// ShownVolume returns a volume without the passwords in its options.
func ShownVolume(row *swarmv1.Volume) *swarmv1.Volume {
	if len(row.GetDriver().GetOptions()) == 0 {
		return row
	}
	row = row.CloneVT()
	row.Driver.Options = spec.ShownVolumeOptions(row.Driver.Options)
	return row
}

// VolumesNamed yields the volumes with a name, ordered by the id of their node.
func VolumesNamed(v *table.View, name string) iter.Seq[*swarmv1.Volume] {
	return crud.Where(v.Volumes.All(), func(row *swarmv1.Volume) bool { return row.GetName() == name })
}

// MountedVolumes returns the names of the volumes that a task mounts, as its node knows them.
func MountedVolumes(v *table.View, t *swarmv1.Task) []string {
	rev, _ := v.Revision(t.GetServiceId(), t.GetRevision())
	isNamed := func(m *swarmv1.Mount) bool { return m.GetType() == swarmv1.Mount_VOLUME && m.GetSource() != "" }
	if !slices.ContainsFunc(rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetMounts(), isNamed) {
		return nil
	}
	n, _ := v.Nodes.Get(t.GetNodeId())
	st, _ := v.NodeStates.Get(t.GetNodeId())
	p := st.GetDescription().GetPlatform()
	rev, err := template.Expand(rev, t, template.Node{ID: n.GetId(), Hostname: n.GetHostname(), OS: p.GetOs(), Arch: p.GetArchitecture()})
	if err != nil {
		return nil // the node rejects the task
	}
	var names []string
	for _, m := range rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetMounts() {
		if isNamed(m) {
			names = append(names, m.GetSource())
		}
	}
	return names
}

// VolumeUsers returns the names of tasks, sorted: mounted are those that mount a volume on its node
// and have not ended, waiting are those that wait for its node. A task that was replaced because
// its node is down counts as ended.
func VolumeUsers(v *table.View, row *swarmv1.Volume) (mounted, waiting []string) {
	tasks := v.Tasks.All()
	if row.GetNodeId() != "" {
		tasks = v.TasksOnNode(row.GetNodeId())
	}
	name := func(t *swarmv1.Task) string { return explain.TaskName(ServiceName(v, t.GetServiceId()), t) }
	for t := range tasks {
		st, _ := v.NodeStates.Get(t.GetNodeId())
		replaced := st.GetState() == swarmv1.NodeState_DOWN && t.GetDesiredState() > swarmv1.TaskState_RUNNING
		if t.GetNodeId() != "" && !replaced && !Ended(v, t) && slices.Contains(MountedVolumes(v, t), row.GetName()) {
			mounted = append(mounted, name(t))
		}
	}
	for _, u := range row.GetUses() {
		for t := range v.TasksOfSlot(u.GetServiceId(), u.GetSlot()) {
			if t.GetNodeId() == "" && !Ended(v, t) && slices.Contains(MountedVolumes(v, t), row.GetName()) {
				waiting = append(waiting, name(t))
			}
		}
	}
	slices.Sort(mounted)
	slices.Sort(waiting)
	return slices.Compact(mounted), slices.Compact(waiting)
}

// VolumeNeeded reports whether a service that exists has used a volume, or mounts it now.
func VolumeNeeded(v *table.View, row *swarmv1.Volume) bool {
	exists := func(id string) bool { _, ok := v.Services.Get(id); return ok }
	if exists(row.GetMakerId()) || slices.ContainsFunc(row.GetUses(), func(u *swarmv1.VolumeUse) bool { return exists(u.GetServiceId()) }) {
		return true
	}
	for svc := range v.Services.All() {
		rev, _ := v.Revision(svc.GetId(), svc.GetRevision())
		for _, m := range rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetMounts() {
			if m.GetType() == swarmv1.Mount_VOLUME && m.GetSource() == row.GetName() {
				return true
			}
		}
	}
	return false
}

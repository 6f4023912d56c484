package cluster

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"swarm/internal/spec"
	"swarm/internal/template"
	swarmv1 "swarm/proto/swarm/v1"
)

// NodeVolume is a volume that a task mounts and whose files are on one node.
type NodeVolume struct {
	Name  string
	Mount *swarmv1.Mount
}

// addVolumes sets the mounts of volumes that are on one node.
func (r *Revision) addVolumes(mounts []*swarmv1.Mount) {
	for _, m := range mounts {
		if spec.IsNodeVolume(m) {
			r.nodeVolumes = append(r.nodeVolumes, m)
		}
	}
}

// VolumesOf returns the volumes with a name that the tasks of a slot mount and whose files are on
// one node. It leaves out those whose name depends on the node or on the task.
func (r *Revision) VolumesOf(slot uint64) []NodeVolume {
	if r == nil || len(r.nodeVolumes) == 0 {
		return nil
	}
	if found, ok := r.slotVolumes[slot]; ok {
		return found
	}
	var out []NodeVolume
	for _, m := range r.nodeVolumes {
		if name, known := template.SlotSource(r.Row, slot, m.GetSource()); known {
			out = append(out, NodeVolume{name, m})
		}
	}
	if r.slotVolumes == nil {
		r.slotVolumes = map[uint64][]NodeVolume{}
	}
	r.slotVolumes[slot] = out
	return out
}

// compareNodes orders the volumes of one name.
func compareNodes(a, b *swarmv1.Volume) int { return cmp.Compare(a.GetNodeId(), b.GetNodeId()) }

// foldVolume applies the change of a volume row. Tasks may have waited for the volume, or for its
// removal. A new size changes nothing for them.
func (state *State) foldVolume(row *swarmv1.Volume, deleted bool) {
	if deleted {
		state.dropVolume(row)
		state.retryWaiting = true
		return
	}
	old := state.putVolume(row)
	if old == nil || old.GetAccepted() != row.GetAccepted() || old.GetReported() != row.GetReported() ||
		old.GetMove().GetPhase() != row.GetMove().GetPhase() {
		state.retryWaiting = true
	}
	if n := state.nodes[row.GetNodeId()]; n != nil && Leaving(row) && !Leaving(old) { // Its tasks must stop.
		for s := range n.taskRows {
			state.markDirty(s)
		}
	}
}

// Leaving says that a volume is on its way to another node, and that no task may use it where it is
// now. row may be nil.
func Leaving(row *swarmv1.Volume) bool {
	phase := row.GetMove().GetPhase()
	return phase == swarmv1.VolumeMove_STOPPED || phase == swarmv1.VolumeMove_SWITCHED
}

// LeavingVolume returns the name of a volume that a task of the slot mounts on the node and that is
// leaving the node, or "".
func (state *State) LeavingVolume(rev *Revision, slot uint64, node string) string {
	for _, v := range rev.VolumesOf(slot) {
		for _, row := range state.volumes[v.Name] {
			if row.GetNodeId() == node && Leaving(row) {
				return v.Name
			}
		}
	}
	return ""
}

// putVolume adds a row, or replaces the row of the same name and node, which it returns.
func (state *State) putVolume(row *swarmv1.Volume) (old *swarmv1.Volume) {
	list := state.volumes[row.GetName()]
	i, found := slices.BinarySearchFunc(list, row, compareNodes)
	if found {
		old, list[i] = list[i], row
		return old
	}
	state.volumes[row.GetName()] = slices.Insert(list, i, row)
	return nil
}

func (state *State) dropVolume(row *swarmv1.Volume) {
	list := state.volumes[row.GetName()]
	i, found := slices.BinarySearchFunc(list, row, compareNodes)
	if !found {
		return
	}
	if len(list) == 1 {
		delete(state.volumes, row.GetName())
		return
	}
	state.volumes[row.GetName()] = slices.Delete(list, i, i+1)
}

// Volumes returns the rows of the volumes with a name, sorted by node id. With a Draft they include
// those that the current plan adds.
func (state *State) Volumes(name string) []*swarmv1.Volume { return state.volumes[name] }

// drawnVolume is a row that a draft has written for a service, over another one, which is nil for a
// new row.
type drawnVolume struct {
	old, row *swarmv1.Volume
	service  *Service
}

// UseVolume records that a task of the service's slot is on the node and mounts the volume. It
// returns the row to write, or nil if the row says so already. later is true if this plan has
// written the row for another service: two groups of one plan must not write the same row, so the
// caller must plan the service again.
func (d *Draft) UseVolume(n *Node, v NodeVolume, s *Service, slot VolumeSlot, now *timestamppb.Timestamp) (write *swarmv1.Volume, later bool) {
	row := &swarmv1.Volume{NodeId: n.ID, Name: v.Name}
	list := d.state.volumes[v.Name]
	last, at := LastUsed(list, s.ID, slot.Number)
	if len(list) > 0 && list[0].GetNodeId() == "" {
		return nil, false // every node mounts it from a file server
	}
	if i, found := slices.BinarySearchFunc(list, row, compareNodes); found {
		if !slot.Returns || list[i] == last {
			return nil, false
		}
		if slices.ContainsFunc(d.volumes, func(w drawnVolume) bool { return w.row == list[i] && w.service != s }) {
			return nil, true
		}
		row = list[i].CloneVT()
		row.Uses = slices.DeleteFunc(row.Uses, func(u *swarmv1.VolumeUse) bool {
			return d.state.services[u.GetServiceId()] == nil || isUse(u, s.ID, slot.Number)
		})
	} else {
		row.MakerId = s.ID
		row.Driver, row.Labels = v.Mount.GetVolumeOptions().GetDriverConfig(), v.Mount.GetVolumeOptions().GetLabels()
	}
	if slot.Returns {
		if last != nil && !now.AsTime().After(at) { // The clock of this manager is behind.
			now = timestamppb.New(at.Add(1))
		}
		row.Uses = append(row.Uses, &swarmv1.VolumeUse{ServiceId: s.ID, Slot: slot.Number, Since: now})
	}
	d.volumes = append(d.volumes, drawnVolume{d.state.putVolume(row), row, s})
	return row, false
}

// undoVolumes takes back what UseVolume has recorded.
func (d *Draft) undoVolumes() {
	for _, v := range slices.Backward(d.volumes) {
		if v.old != nil {
			d.state.putVolume(v.old)
		} else {
			d.state.dropVolume(v.row)
		}
	}
}

// VolumeSlot says under which number the tasks of a slot return to their volumes.
type VolumeSlot struct {
	Number  uint64
	Returns bool // false: the tasks of the slot are bound to a node anyway
}

// VolumeSlot returns the VolumeSlot of a slot. A global service has one slot for each node. All
// slots of a job are one, because a job has new slots in every run.
func (s *Service) VolumeSlot(k SlotKey) VolumeSlot {
	switch {
	case k.Node != "":
		return VolumeSlot{}
	case s.Job():
		return VolumeSlot{Returns: true}
	}
	return VolumeSlot{Number: k.Number, Returns: true}
}

// LastUsed returns the row of a volume where a task of the slot was placed last because of the
// volume, and when; nil if there is none.
func LastUsed(rows []*swarmv1.Volume, serviceID string, slot uint64) (last *swarmv1.Volume, at time.Time) {
	for _, row := range rows {
		i := slices.IndexFunc(row.GetUses(), func(u *swarmv1.VolumeUse) bool { return isUse(u, serviceID, slot) })
		if i < 0 {
			continue
		}
		if since := row.Uses[i].GetSince().AsTime(); last == nil || since.After(at) {
			last, at = row, since
		}
	}
	return last, at
}

func isUse(u *swarmv1.VolumeUse, serviceID string, slot uint64) bool {
	return u.GetServiceId() == serviceID && u.GetSlot() == slot
}

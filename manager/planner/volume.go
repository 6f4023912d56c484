package planner

import (
	"swarm/manager/planner/cluster"
)

// useVolumes records the volumes of a task that was placed on a node: the volumes that the task
// will make there, and that the next tasks of its slot must find them (placement.Finder).
func (r *run) useVolumes(rev *cluster.Revision, slot cluster.SlotKey, n *cluster.Node) {
	for _, v := range rev.VolumesOf(slot.Number) {
		row, later := r.draft.UseVolume(n, v, r.service, r.service.VolumeSlot(slot), r.nowpb)
		if later {
			r.wakeAt(r.now)
		}
		if row != nil {
			r.out.volume(row)
		}
	}
}

// recordVolumes repeats useVolumes for the tasks that are on a node already, also for those that
// this plan replaces, so that their successors find the volumes. Usually it finds nothing to write.
// It writes if the store has accepted the group with a task and not the group with the volume's
// row, which may belong to another slot, or if somebody has removed the row.
func (r *run) recordVolumes() {
	for i := range r.slotPlans {
		sp := &r.slotPlans[i]
		t := sp.head
		if t == nil || sp.action == drop || t.Node == nil || t.Node.Removed() || t.Unplaced() || t.Ended() {
			continue
		}
		if len(t.Revision.VolumesOf(sp.slot.Key.Number)) > 0 {
			r.out.atom = sp.atom
			r.useVolumes(t.Revision, sp.slot.Key, t.Node)
		}
	}
}

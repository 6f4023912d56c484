package dispatch

import (
	"slices"

	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// volumesOf returns the changes that make the rows of the node's volumes equal to the report. A row
// that the node has not reported yet stays while a task may still make its volume.
func volumesOf(view *table.View, e *entry) []*swarmv1.Change {
	if e.volumes == nil {
		return nil
	}
	node := e.session.node
	var out []*swarmv1.Change
	held := make(map[string]bool)
	for _, v := range e.volumes.GetHeld() {
		if _, shared := view.Volumes.Get(table.VolumeKey("", v.GetName())); shared {
			continue // the node has mounted the cluster's volume
		}
		held[v.GetName()] = true
		old, ok := view.Volumes.Get(table.VolumeKey(node, v.GetName()))
		row := &swarmv1.Volume{NodeId: node, Name: v.GetName()}
		if ok {
			row = old.CloneVT()
		}
		row.Driver, row.Labels, row.CreatedAt, row.Reported = v.GetDriver(), v.GetLabels(), v.GetCreatedAt(), true
		row.Size, row.MeasuredAt, row.Mountpoint = v.GetSize(), v.GetMeasuredAt(), v.GetMountpoint()
		switch {
		case !ok:
			out = append(out, table.Create(row))
		case !row.EqualVT(old):
			out = append(out, table.Update(row))
		}
	}
	mounted := mountedOn(view, node)
	for row := range view.Volumes.Prefix(node + "/") {
		if !held[row.GetName()] && (row.GetReported() || !slices.Contains(mounted, row.GetName())) {
			out = append(out, table.Delete(row))
		}
	}
	return out
}

// mountedOn returns the volumes that tasks on the node mount which have not ended.
func mountedOn(view *table.View, node string) []string {
	var out []string
	for t := range view.TasksOnNode(node) {
		if !object.Ended(view, t) {
			out = append(out, object.MountedVolumes(view, t)...)
		}
	}
	return out
}

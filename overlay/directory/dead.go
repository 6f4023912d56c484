package directory

import "slices"

// Report is which nodes are dead according to gossip and the failure detector (overlay/detector).
type Report struct {
	// Dead has the ids of the nodes that do not answer or have left. Nodes that gossip does not
	// know are not in it.
	Dead []string
	// Confirmed has the ids in Dead of nodes that have not answered for so long that there is no
	// doubt. They count even if the rest of the report is ignored.
	Confirmed []string
	// Faulty says that this node is likely to be the one with the fault, because its own probes are
	// not answered.
	Faulty bool
}

// SetDead replaces the set of dead nodes. It ignores nodes that are newly dead if the report is
// Faulty or if more than half of the other nodes are dead: then this node is likely to be paused or
// cut off, and the former set is closer to the truth. Confirmed nodes, and nodes that are alive
// again, count in any case.
func (d *Directory) SetDead(r Report) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := make(map[string]bool, len(r.Dead))
	for _, id := range r.Dead {
		if _, known := d.peers[id]; known && id != d.self {
			now[id] = true
		}
	}
	if others := len(d.peers) - 1; r.Faulty || others > 1 && 2*len(now) > others {
		for id := range now {
			if !d.dead[id] && !slices.Contains(r.Confirmed, id) {
				delete(now, id)
			}
		}
	}
	for id := range now {
		if !d.dead[id] {
			d.touch(id)
		}
	}
	for id := range d.dead {
		if !now[id] {
			d.touch(id)
		}
	}
	d.dead = now
	d.wake()
}

// touch marks the services that have a backend on the node as changed.
func (d *Directory) touch(node string) {
	for _, t := range d.tasks {
		if t.GetNodeId() == node {
			d.dirty.Services[t.GetServiceId()] = true
		}
	}
}

// live marks the backends of a service that new connections may go to, and returns them. If all
// nodes of the service are dead, it returns the backends on them: the report may be wrong, and a
// connection that fails is no worse than one that is refused.
func (d *Directory) live(all []Backend) []Backend {
	var ready, live []int
	for i, b := range all {
		if !b.GetReady() {
			continue
		}
		ready = append(ready, i)
		if !d.dead[b.GetNodeId()] {
			live = append(live, i)
		}
	}
	if len(live) == 0 {
		live = ready
	}
	out := make([]Backend, 0, len(live))
	for _, i := range live {
		all[i].Live = true
		out = append(out, all[i])
	}
	return out
}

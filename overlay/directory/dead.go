package directory

import "slices"

// Report lists the nodes that are dead according to gossip and the failure detector
// (overlay/detector).
type Report struct {
	// Dead has the ids of the nodes that do not answer or have left. It does not have nodes that
	// gossip does not know.
	Dead []string
	// Confirmed has the ids of those nodes in Dead which have left, or have not answered for
	// detector.ConfirmAfter. SetDead counts them as dead even if it ignores the rest of the report.
	Confirmed []string
	// Faulty says that the fault is likely to be on this node, because its own probes are not
	// answered.
	Faulty bool
}

// SetDead replaces the set of dead nodes. It does not add a node if the report is Faulty, or if the
// report lists more than half of the other nodes as dead: this node is then likely to be paused or
// cut off, and the former set is closer to the truth. Even then SetDead adds the confirmed nodes,
// and removes the nodes that the report does not list.
func (d *Directory) SetDead(r Report) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := make(map[string]bool, len(r.Dead))
	for _, id := range r.Dead {
		if _, known := d.nodes[id]; known && id != d.self {
			now[id] = true
		}
	}
	others := len(d.nodes) - 1
	// If there is only one other node, its death is always the death of more than half.
	mostAreDead := others > 1 && 2*len(now) > others
	if r.Faulty || mostAreDead {
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

// markLive sets Live of the tasks to which new connections may go, and returns these tasks. If all
// ready tasks are on dead nodes, it returns all of them: the report of dead nodes may be wrong, and
// a connection that fails is no worse than one that is refused.
func (d *Directory) markLive(all []Task) []Task {
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
	out := make([]Task, 0, len(live))
	for _, i := range live {
		all[i].Live = true
		out = append(out, all[i])
	}
	return out
}

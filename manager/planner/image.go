package planner

import (
	"cmp"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

// A node that could not get an image gets no tasks with that image for a while: placement tries the
// other nodes. When all nodes have failed, the task waits with an explanation, instead of being
// rejected every few seconds. The node is tried again after imageRetry, and at once when the
// cluster learns of any new image or copy, because someone may have loaded the missing one.

// imageRetry is how long a node that could not get an image gets no task with it.
const imageRetry = 2 * time.Minute

// nodesWithoutImage returns the nodes that could not get the revision's image, each with the task
// that was last rejected for it.
func (r *run) nodesWithoutImage(rev *revision) map[*node]*task {
	if r.service.failed == 0 {
		return nil
	}
	if r.noImageRevision == rev {
		return r.noImage
	}
	var noImage map[*node]*task
	for _, s := range r.service.slotList {
		for _, t := range s.tasks {
			if !t.failed || t.node == nil || !t.rows().LacksImage() || !t.revision.pullsLike(rev) {
				continue
			}
			if statusVersion(t) <= r.state.newestImage || !r.now.Before(r.state.reportedAt(t).Add(imageRetry)) {
				continue
			}
			if noImage == nil {
				noImage = map[*node]*task{}
			}
			if o := noImage[t.node]; o == nil || cmp.Or(cmp.Compare(statusVersion(o), statusVersion(t)), cmp.Compare(o.id, t.id)) < 0 {
				noImage[t.node] = t
			}
		}
	}
	r.noImageRevision, r.noImage = rev, noImage
	return noImage
}

func (r *revision) image() string { return r.spec().GetTaskTemplate().GetContainerSpec().GetImage() }

// pullsLike says whether a pull that failed for one revision would fail for the other too. It may
// succeed with other credentials, or after a forced update, which tells that the user has fixed
// something.
func (r *revision) pullsLike(o *revision) bool {
	mine, others := r.spec().GetTaskTemplate(), o.spec().GetTaskTemplate()
	return r.image() == o.image() && mine.GetForceUpdate() == others.GetForceUpdate() &&
		mine.GetContainerSpec().GetPullOptions().GetRegistryAuth() == others.GetContainerSpec().GetPullOptions().GetRegistryAuth()
}

// statusVersion returns the version of the task's status: the index of the log entry that wrote it.
func statusVersion(t *task) uint64 { return t.status.GetMeta().GetVersion() }

// noteImage records that an image or a copy is new, and makes services with waiting tasks due.
func (p *State) noteImage(m *swarmv1.Meta) {
	if m.GetVersion() > p.newestImage {
		p.newestImage = m.GetVersion()
		p.retryWaiting = true
	}
}

package planner

import (
	"cmp"
	"time"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// A node that could not get an image is not asked again for it at once: other nodes are tried, and when all have refused
// the task waits, explained, instead of being rejected every few seconds. It is tried again after a while, and at once
// when the cluster learns of any image or copy: somebody has loaded it.

// imageRetry is how long a node is not asked again.
const imageRetry = 2 * time.Minute

// lacking returns the nodes that could not get the revision's image, each with the task that says so.
func (r *run) lacking(rev *revision) map[*node]*task {
	if r.svc.failed == 0 {
		return nil
	}
	if r.lackingFor == rev {
		return r.lackingOf
	}
	var lacking map[*node]*task
	for _, s := range r.svc.list {
		for _, t := range s.tasks {
			if !t.failed || t.node == nil || !lacksImage(t) || !t.rev.pullsAs(rev) {
				continue
			}
			if version(t) <= r.p.imageNews || !r.now.Before(r.p.reportedAt(t).Add(imageRetry)) {
				continue
			}
			if lacking == nil {
				lacking = map[*node]*task{}
			}
			if o := lacking[t.node]; o == nil || cmp.Or(cmp.Compare(version(o), version(t)), cmp.Compare(o.id, t.id)) < 0 {
				lacking[t.node] = t
			}
		}
	}
	r.lackingFor, r.lackingOf = rev, lacking
	return lacking
}

// lacksImage: the task was rejected because its node could not get the image.
func lacksImage(t *task) bool {
	return t.state() == swarmv1.TaskState_REJECTED && spec.LacksImage(t.status.GetErr())
}

func (r *revision) image() string { return r.spec().GetTaskTemplate().GetContainerSpec().GetImage() }

// pullsAs says whether what one revision could not get the other cannot either: other credentials may, and whoever forces
// an update has mended something.
func (r *revision) pullsAs(o *revision) bool {
	mine, others := r.spec().GetTaskTemplate(), o.spec().GetTaskTemplate()
	return r.image() == o.image() && mine.GetForceUpdate() == others.GetForceUpdate() &&
		mine.GetContainerSpec().GetPullOptions().GetRegistryAuth() == others.GetContainerSpec().GetPullOptions().GetRegistryAuth()
}

// version is the index of the log entry that wrote the task's status.
func version(t *task) uint64 { return t.status.GetMeta().GetVersion() }

// news: whoever waits for an image may have it now.
func (p *Picture) news(m *swarmv1.Meta) {
	if m.GetVersion() > p.imageNews {
		p.imageNews = m.GetVersion()
		p.roomier = true
	}
}

package planner

import (
	swarmv1 "swarm/proto/swarm/v1"
)

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

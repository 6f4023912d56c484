package placement

import (
	"cmp"
	"time"

	"swarm/manager/planner/cluster"
)

// A node that could not get an image gets no tasks with that image for a while: placement tries the
// other nodes. When all nodes have failed, the task waits with an explanation, instead of being
// rejected every few seconds. The node is tried again after ImageRetry, and at once when the
// cluster learns of any new image or copy, because someone may have loaded the missing one.

// ImageRetry is how long a node that could not get an image gets no task with it.
const ImageRetry = 2 * time.Minute

// nodesWithoutImage returns the nodes that could not get the revision's image, each with the task
// that was last rejected for it.
func (f *Finder) nodesWithoutImage(rev *cluster.Revision) map[*cluster.Node]*cluster.Task {
	if f.service.Failed == 0 {
		return nil
	}
	if f.noImageRevision == rev {
		return f.noImage
	}
	var noImage map[*cluster.Node]*cluster.Task
	for _, s := range f.service.Slots() {
		for _, t := range s.Tasks {
			if !t.Failure() || t.Node == nil || !t.Rows().LacksImage() || !t.Revision.PullsLike(rev) {
				continue
			}
			if statusVersion(t) <= f.state.NewestImage || !f.now.Before(f.state.ReportedAt(t).Add(ImageRetry)) {
				continue
			}
			if noImage == nil {
				noImage = map[*cluster.Node]*cluster.Task{}
			}
			if o := noImage[t.Node]; o == nil || cmp.Or(cmp.Compare(statusVersion(o), statusVersion(t)), cmp.Compare(o.ID, t.ID)) < 0 {
				noImage[t.Node] = t
			}
		}
	}
	f.noImageRevision, f.noImage = rev, noImage
	return noImage
}

// A node is used only if no other node has room once failureThreshold tasks of the revision have
// failed on it within failureWindow. Docker's threshold is 5, but Docker's restart delay does not
// grow.
const (
	failureThreshold = 3
	failureWindow    = 5 * time.Minute
)

// recentFailures counts, by node, the tasks of the revision that failed within failureWindow.
func (f *Finder) recentFailures(rev *cluster.Revision) map[*cluster.Node]int {
	if f.service.Failed == 0 {
		return nil
	}
	failing := map[*cluster.Node]int{}
	for _, s := range f.service.Slots() {
		for _, t := range s.Tasks {
			if t.Failure() && t.Node != nil && t.Revision == rev && f.now.Sub(f.state.ReportedAt(t)) < failureWindow {
				failing[t.Node]++
			}
		}
	}
	return failing
}

// statusVersion returns the version of the task's status: the index of the log entry that wrote it.
func statusVersion(t *cluster.Task) uint64 { return t.Status.GetMeta().GetVersion() }

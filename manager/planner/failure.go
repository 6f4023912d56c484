package planner

import (
	"cmp"
	"time"
)

// A node that could not get an image gets no tasks with that image for a while: placement tries the
// other nodes. When all nodes have failed, the task waits with an explanation, instead of being
// rejected every few seconds. The node is tried again after imageRetry, and at once when the
// cluster learns of any new image or copy, because someone may have loaded the missing one.

// imageRetry is how long a node that could not get an image gets no task with it.
const imageRetry = 2 * time.Minute

// nodesWithoutImage returns the nodes that could not get the revision's image, each with the task
// that was last rejected for it.
func (f *Finder) nodesWithoutImage(rev *revision) map[*node]*task {
	if f.service.failed == 0 {
		return nil
	}
	if f.noImageRevision == rev {
		return f.noImage
	}
	var noImage map[*node]*task
	for _, s := range f.service.Slots() {
		for _, t := range s.tasks {
			if !t.failure() || t.node == nil || !t.rows().LacksImage() || !t.revision.pullsLike(rev) {
				continue
			}
			if statusVersion(t) <= f.state.newestImage || !f.now.Before(f.state.reportedAt(t).Add(imageRetry)) {
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
func (f *Finder) recentFailures(rev *revision) map[*node]int {
	if f.service.failed == 0 {
		return nil
	}
	failing := map[*node]int{}
	for _, s := range f.service.Slots() {
		for _, t := range s.tasks {
			if t.failure() && t.node != nil && t.revision == rev && f.now.Sub(f.state.reportedAt(t)) < failureWindow {
				failing[t.node]++
			}
		}
	}
	return failing
}

// statusVersion returns the version of the task's status: the index of the log entry that wrote it.
func statusVersion(t *task) uint64 { return t.status.GetMeta().GetVersion() }

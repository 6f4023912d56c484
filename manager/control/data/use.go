package data

import (
	"cmp"
	"fmt"
	"slices"

	"swarm/internal/spec"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// usesIn returns the references of the current revisions of all services, by the id of the object
// and ordered by the name of the service.
func usesIn(v *table.View) map[string][]*swarmv1.DataUse {
	uses := map[string][]*swarmv1.DataUse{}
	for svc := range v.Services.All() {
		rev, _ := v.Revision(svc.GetId(), svc.GetRevision())
		for ref := range spec.DataReferences(rev.GetSpec()) {
			uses[ref.GetId()] = append(uses[ref.GetId()], &swarmv1.DataUse{ServiceId: svc.GetId(), ServiceName: svc.GetName(), Reference: ref})
		}
	}
	for _, list := range uses {
		slices.SortStableFunc(list, func(a, b *swarmv1.DataUse) int { return cmp.Compare(a.GetServiceName(), b.GetServiceName()) })
	}
	return uses
}

// usersOf returns the services that need an object: those whose current revision refers to it,
// those that may be rolled back to such a revision by the update that runs, and those with a task
// of such a revision.
func usersOf(v *table.View, id string) []*swarmv1.Service {
	var out []*swarmv1.Service
	for svc := range v.Services.All() {
		for _, number := range revisionsInUse(v, svc) {
			rev, _ := v.Revision(svc.GetId(), number)
			if refersTo(rev, id) {
				out = append(out, svc)
				break
			}
		}
	}
	return out
}

func refersTo(rev *swarmv1.Revision, id string) bool {
	for ref := range spec.DataReferences(rev.GetSpec()) {
		if ref.GetId() == id {
			return true
		}
	}
	return false
}

// revisionsInUse returns the numbers of the revisions of a service that have tasks or may get them
// without another change.
func revisionsInUse(v *table.View, svc *swarmv1.Service) []uint64 {
	out := []uint64{svc.GetRevision()}
	if svc.GetUpdateStatus() != nil && svc.GetUpdateStatus().GetCompletedAt() == nil {
		out = append(out, svc.GetPreviousRevision())
	}
	for t := range v.TasksOfService(svc.GetId()) {
		if !object.Ended(v, t) {
			out = append(out, t.GetRevision())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// usersByVersion returns the names of the services that use each version of an object.
func usersByVersion(v *table.View, id string) map[uint64][]string {
	out := map[uint64][]string{}
	for svc := range v.Services.All() {
		used := map[uint64]bool{}
		for _, number := range revisionsInUse(v, svc) {
			rev, _ := v.Revision(svc.GetId(), number)
			for ref := range spec.DataReferences(rev.GetSpec()) {
				if ref.GetId() == id {
					used[ref.GetNumber()] = true
					used[ref.GetPrevious()] = ref.GetPrevious() != 0
				}
			}
		}
		for number, is := range used {
			if is {
				out[number] = append(out[number], svc.GetName())
			}
		}
	}
	for _, names := range out {
		slices.Sort(names)
	}
	return out
}

// inUse returns the error which says that services use an object.
func (o *objects[T]) inUse(row T, users []*swarmv1.Service) error {
	return object.InUse(users, func(service string) string {
		return fmt.Sprintf("remove what uses it, or take it away with `swarm service update --%s-rm %s %s`", o.data.Word, row.GetSpec().GetName(), service)
	})
}

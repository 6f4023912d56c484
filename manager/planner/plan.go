package planner

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"swarm/internal/rollout"
	"swarm/manager/planner/cluster"
	"swarm/manager/planner/placement"
	swarmv1 "swarm/proto/swarm/v1"
)

// Result is what Plan proposes.
type Result struct {
	// Groups are the changes to commit. The store accepts or rejects each group on its own.
	Groups []Group
	// Next is when the next service must be planned if no row changes. Zero: never.
	Next time.Time
}

// Group is a set of changes that the store applies together or not at all. It changes one service,
// its tasks and their claims. A large service needs several groups, which must be committed in
// order. Service is empty for changes of the nodes' addresses on the ingress network.
type Group struct {
	Service string
	Changes []*swarmv1.Change
}

// Proto returns the group in the form that the store takes.
func (g Group) Proto() *swarmv1.Group { return &swarmv1.Group{Changes: g.Changes} }

// groupSize is the number of changes after which a group ends. A group of this size fits well into
// one log entry of 512 KiB, because a change takes about 200 bytes. A group may be larger, because
// an atom (the changes of one slot: tasks, statuses and claims) is never split.
const groupSize = 1024

// Planner plans from a State. It belongs to the goroutine that uses the State.
type Planner struct {
	state  *cluster.State
	finder *placement.Finder
	// slotPlans is memory that one plan hands to the next. Without it, a plan of one task for a
	// service of 1,000 tasks takes 0.3 ms of CPU time instead of 0.09 ms
	// (BenchmarkPlacement/one_full_100k_1k).
	slotPlans []slotPlan
}

// New returns a Planner for a State. The caller keeps the State up to date.
func New(state *cluster.State) *Planner {
	return &Planner{state: state, finder: placement.NewFinder(state)}
}

// maxSlotPlans is the largest capacity of slotPlans that is kept for the next plan. For a plan that
// needs more, the allocation is a small part of the cost.
const maxSlotPlans = 4096

// recycle empties slotPlans for reuse. It clears the elements, because they would keep a removed
// service and its tasks in memory until a later plan is as large.
func recycle(slotPlans []slotPlan) []slotPlan {
	if cap(slotPlans) > maxSlotPlans {
		return nil
	}
	clear(slotPlans)
	return slotPlans[:0]
}

// Plan returns the changes that bring the services with the given ids closer to what their rows ask
// for at time now. It ignores unknown ids. The only thing that it changes for later plans is the
// deadlines of the services, which Due and Result.Next read. Before the next call, the caller must
// apply what it has committed (cluster.State.Apply).
func (p *Planner) Plan(services []string, now time.Time) Result {
	r := &run{
		subject: subject{state: p.state, timer: &timer{now: now, nowpb: timestamppb.New(now)}},
		draft:   p.state.Draft(), finder: p.finder, slotPlans: p.slotPlans,
	}
	for _, s := range byPriority(p.state, services) {
		r.finder.Begin(s, now)
		r.planService(s)
	}
	r.planIngress()
	r.draft.Undo()
	r.finder.End()
	p.slotPlans = recycle(r.slotPlans)
	return Result{Groups: r.groups, Next: p.state.NextDeadline()}
}

// byPriority returns the services with the given ids, highest priority first: the services that are
// planned first take the free resources. Services of equal priority are sorted by id.
func byPriority(state *cluster.State, ids []string) []*cluster.Service {
	list := make([]*cluster.Service, 0, len(ids))
	for _, id := range ids {
		if s := state.Service(id); s != nil {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b *cluster.Service) int {
		return cmp.Or(cmp.Compare(b.Priority(), a.Priority()), cmp.Compare(a.ID, b.ID))
	})
	return slices.Compact(list)
}

// run is one call of Plan. The first five passes are methods of subject and updatePass, which have
// no access to the changes of rows: these passes record their decisions in the slotPlans and in
// their results. The last three passes are methods of run, because all of them write to the same
// changes and must know which rows an earlier pass has deleted.
type run struct {
	draft  *cluster.Draft
	finder *placement.Finder
	groups []Group

	// The fields below belong to the service that is being planned.
	subject
	slotPlans []slotPlan // the slots of the service that have tasks, in key order
	added     additions
	out       emitter
	// deleted holds the keys of the rows that this plan deletes.
	deleted map[string]bool
	// updateVersion names the update that creates the new tasks (Task.update).
	updateVersion uint64
	newTasks      []taskPlan
	// waiting counts the service's tasks without a node, including those of this plan.
	waiting int
}

// planService plans one service: it replaces failed tasks, adjusts the number of slots, renews
// outdated tasks, and places tasks on nodes.
func (r *run) planService(s *cluster.Service) {
	r.service, r.current, r.deadline = s, s.Current(), time.Time{}
	r.slotPlans, r.newTasks, r.deleted, r.waiting = recycle(r.slotPlans), nil, nil, s.Waiting
	r.out.reset()
	switch {
	case s.Row == nil || s.Row.GetPendingDelete():
		r.removeService()
	case r.current == nil:
		// The row of the current revision has not arrived. It is in the group that wrote the
		// service's row, so the next Apply brings it.
	default:
		r.planSlots()
	}
	r.groups = append(r.groups, r.out.groups(s.ID)...)
	r.state.SetDeadline(s, r.deadline)
}

// planSlots runs all passes for a service that is not being removed.
func (r *run) planSlots() {
	r.update = rollout.UpdateOf(r.service.Row, r.current.Row)
	r.slotPlans = r.judge(r.slotPlans)
	r.added = r.reconcile(r.slotPlans)
	r.applyLimits(r.slotPlans, r.draft)
	pass := updatePass{r.subject, r.slotPlans}
	result := pass.decide()
	pass.moveDrained()
	r.writeService(result)
	if result.rollback {
		r.draft.UndoResize(r.service) // the tasks keep their limits
		return
	}
	r.applyActions()
	r.reap()
	r.recordVolumes()
	r.placeTasks()
	r.out.newAtom()
	r.writeCursors()
}

// writeService writes the service's row if the update has changed it.
func (r *run) writeService(u updateResult) {
	r.updateVersion = r.update.Version
	if u.status == nil {
		return
	}
	row := r.service.Row.CloneVT()
	if u.rollback {
		row.Revision, row.PreviousRevision = row.GetPreviousRevision(), 0
	}
	row.UpdateStatus = u.status
	r.updateVersion = u.status.GetStartedVersion()
	r.out.service(row)
}

package planner

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	swarmv1 "swarm/proto/swarm/v1"
)

// Result is what Plan would change.
type Result struct {
	// Groups are independent of one another: each is committed, or rejected, alone.
	Groups []Group
	// Next is when something is due though no row changes. Zero: never.
	Next time.Time
}

// Group is an atomic set of changes to one service and its tasks. A large service comes in several groups, in order.
// Service is empty for what no service owns: the nodes' addresses on network ingress.
type Group struct {
	Service string
	Changes []*swarmv1.Change
}

// Proto is the group as the store takes it.
func (g Group) Proto() *swarmv1.Group { return &swarmv1.Group{Changes: g.Changes} }

// groupSize bounds the changes of a group, so that it fits well into one log entry of 512 KiB (a change takes about 200
// bytes) while one atom, a task with its status and claims, is never cut.
const groupSize = 1024

// Plan says what should change, at time now, so that the named services become what their rows ask for. It does not
// change the picture in any way that later plans could see, except for the deadlines that Due watches.
func (p *Picture) Plan(services []string, now time.Time) Result {
	p.sortNodes()
	r := &run{p: p, now: now, nowpb: timestamppb.New(now), views: p.spare.views, wants: p.spare.wants, taken: p.spare.taken}
	for _, s := range p.byPriority(services) {
		r.service(s)
	}
	r.mesh()
	r.undo()
	p.spare.views, p.spare.wants, p.spare.taken = recycle(r.views), recycle(r.wants), recycle(r.taken)
	return Result{Groups: r.groups, Next: p.next()}
}

// byPriority puts the most important first: it takes the room that is left. Ties go by id.
func (p *Picture) byPriority(ids []string) []*service {
	list := make([]*service, 0, len(ids))
	for _, id := range ids {
		if s := p.services[id]; s != nil {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b *service) int {
		return cmp.Or(cmp.Compare(b.priority(), a.priority()), cmp.Compare(a.id, b.id))
	})
	return slices.Compact(list)
}

func (p *Picture) next() time.Time {
	var first time.Time
	for _, at := range p.timed {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}

// run is one call of Plan.
type run struct {
	p      *Picture
	now    time.Time
	nowpb  *timestamppb.Timestamp
	groups []Group
	// taken is what this plan has placed, so that what follows sees it, and undo can take it back.
	taken []taken
	given []given
	left  []left
	// raised is what tasks on their nodes reserve more than before.
	raised []raised
	// spots are the addresses that this plan has given; steps where the cursors were before it; filled the networks that
	// ran out of addresses.
	spots, steps []spot
	filled       []*network
	// picked are the addresses of the next task, moved the cursors that the service's group writes.
	picked, moved []spot

	// Of the service being planned:
	svc   *service
	cur   *revision
	views []view
	wants []want
	out   emitter
	due   time.Time
	freed map[string]bool  // keys of the rows that this plan deletes
	row   *swarmv1.Service // copy of the service's row that will be written
	// more slots are wanted, from number on; waits counts the tasks without a node, this plan's included.
	more   int
	number uint64
	waits  int
	// from is where the placements of the service begin in taken.
	from    int
	placers []*placer
	// The last answer of lacking.
	lackingFor *revision
	lackingOf  map[*node]*task
}

// wake asks for the service to be planned at the latest at the given time.
func (r *run) wake(at time.Time) {
	if r.due.IsZero() || at.Before(r.due) {
		r.due = at
	}
}

// service plans one service: heal what broke, have as many tasks as wanted, renew what is outdated, place.
func (r *run) service(s *service) {
	r.svc, r.cur, r.due = s, s.current(), time.Time{}
	r.views, r.wants, r.freed = recycle(r.views), recycle(r.wants), nil
	r.row, r.from, r.lackingFor = nil, len(r.taken), nil
	r.more, r.waits = 0, s.waiting
	r.out.reset()
	switch {
	case s.row == nil || s.row.GetPendingDelete():
		r.remove()
	case r.cur == nil:
		// The row of the revision stands in the group of the service's row: it comes with the next batch.
	default:
		r.look()
		if s.global() {
			r.global()
		} else {
			r.replicated()
		}
		r.limits()
		if r.update() {
			r.act()
			r.reap()
			r.place()
			r.cursors()
		}
	}
	r.groups = append(r.groups, r.out.groups(s.id)...)
	r.p.deadline(s, r.due)
}

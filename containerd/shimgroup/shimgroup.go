//go:build linux

// Package shimgroup decides which containers share a shim process.
//
// It owns the table of groups of one node: which container is in which group, and whether the
// group's shim has the container. It does not start shims or talk to containerd. Package containerd
// does that, and tells the table before and after each step:
//
//	Assign          the container gets a group, before its record is created
//	Join            the caller is about to ask the group's shim to set the container up
//	JoinSucceeded   the shim has set the container up
//	JoinFailed      the shim does not have the container
//	Leave           the caller is about to delete the container from the shim
//	Forget          the container's record is deleted
//
// Retire closes a group whose shim has ended. The package runs no goroutine. Join and Leave may
// block.
package shimgroup

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"

	"swarm/internal/broadcast"
)

// groupSize is the highest number of containers that share a shim, and so the highest number that
// end when a shim dies. A shim needs 12 MB of memory, whether it has one container or many: with 17
// containers in a shim, each costs less than 1 MB. A larger group does not start more slowly,
// because a shim sets up several containers at the same time.
const groupSize = 17

// Table assigns containers to groups. The containers of one group share a shim. A service with more
// than one container on the node has its containers in more than one group, so that the death of a
// shim does not end all of them.
//
// The first container of a group starts the shim, and joins alone. The shim ends with its last
// container. While it ends it may still accept a connection, so a group that its last container has
// left is retired: no container joins it, and its name is never used again. The last container does
// not leave while another one is joining.
//
// The methods of a Table are safe for concurrent use.
type Table struct {
	build string
	run   string // a part of the names of this process's groups, so that earlier processes do not use them

	mu      sync.Mutex // guards what follows
	loaded  bool
	next    int
	byName  map[string]*group
	member  map[string]*group // by task
	changed broadcast.Signal  // sent when a join has ended or a container has left
}

// group has the containers of one shim.
type group struct {
	name    string
	service map[string]string // of each member, by task
	joining map[string]bool   // members that the shim is being asked to set up
	joined  map[string]bool   // members that the shim has
	retired bool              // no further container may join
}

// New returns an empty table. build names the build of swarm that the shims run, because a shim
// serves only containers of its own build. Empty: the shims are those of the host's containerd.
func New(build string) *Table {
	if build == "" {
		build = "host"
	}
	return &Table{
		build:  build,
		run:    fmt.Sprintf("%08x", rand.Uint32()),
		byName: make(map[string]*group),
		member: make(map[string]*group),
	}
}

// Member is a container that an earlier process of the daemon assigned to a group.
type Member struct {
	Task, Service, Group string
	Started              bool // whether the container was ever started
}

// Load takes over the groups of an earlier process, which existing returns. If existing fails, Load
// returns the error and may be called again. After the first success Load does nothing. It retires
// groups of other builds and groups in which no container was started.
func (g *Table) Load(existing func() ([]Member, error)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.loaded {
		return nil
	}
	all, err := existing()
	if err != nil {
		return err
	}
	for _, m := range all {
		if g.member[m.Task] != nil || m.Group == "" {
			continue
		}
		grp := g.byName[m.Group]
		if grp == nil {
			grp = g.addLocked(m.Group)
			grp.retired = !strings.HasPrefix(m.Group, g.build+"-")
		}
		grp.service[m.Task] = m.Service
		if m.Started {
			grp.joined[m.Task] = true
		}
		g.member[m.Task] = grp
	}
	// A group without a started container has no shim, or one that is ending.
	for _, grp := range g.byName {
		grp.retired = grp.retired || len(grp.joined) == 0
	}
	g.loaded = true
	return nil
}

// Assign returns the name of the group for a container that is about to be created. A container
// that is in a group already stays there.
func (g *Table) Assign(task, service string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if grp := g.member[task]; grp != nil {
		return grp.name
	}
	return g.assignLocked(task, service).name
}

func (g *Table) assignLocked(task, service string) *group {
	var best *group
	bestSame, spread := 0, 0
	for _, grp := range g.byName {
		same := grp.count(service)
		if same > 0 {
			spread++
		}
		if grp.retired || len(grp.service) >= groupSize {
			continue
		}
		if best == nil || same < bestSame ||
			same == bestSame && (len(grp.service) > len(best.service) ||
				len(grp.service) == len(best.service) && grp.name < best.name) {
			best, bestSame = grp, same
		}
	}
	// A new group is needed if all are full. It is also made if the service has containers in only
	// one group, and that group is the best: the loss of one shim must not end the whole service.
	if best == nil || bestSame > 0 && spread == 1 {
		g.next++
		best = g.addLocked(fmt.Sprintf("%s-%s-%d", g.build, g.run, g.next))
	}
	best.service[task] = service
	g.member[task] = best
	return best
}

// Join returns the name of the container's group, whose shim the caller then asks to set the
// container up. After the shim's answer the caller must call JoinSucceeded or JoinFailed. If it
// gets no answer, it calls Join again before the next attempt.
//
// If the group is retired, Join first puts the container into another group. moved is then true,
// and the caller must write the new name into the container's record.
//
// The first container of a group joins alone, because two containers that start the shim at the
// same time can start two shims, one of which is then lost. Join of the other containers waits
// until the first has joined or ctx ends.
func (g *Table) Join(ctx context.Context, task, service string) (name string, moved bool, err error) {
	for {
		g.mu.Lock()
		grp, changed := g.member[task], g.changed.Changed()
		if grp == nil || grp.retired {
			g.forgetLocked(task)
			grp = g.assignLocked(task, service)
			moved = true
		}
		// If this container is already joining, the outcome of an earlier attempt is not known.
		if len(grp.joined) > 0 || len(grp.joining) == 0 || grp.joining[task] {
			grp.joining[task] = true
			g.mu.Unlock()
			return grp.name, moved, nil
		}
		g.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return "", false, ctx.Err()
		}
	}
}

// JoinSucceeded tells the table that the shim has set the container up.
func (g *Table) JoinSucceeded(task string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if grp := g.member[task]; grp != nil {
		delete(grp.joining, task)
		grp.joined[task] = true
		g.changed.Broadcast()
	}
}

// JoinFailed tells the table that the shim does not have the container, because its set-up failed.
func (g *Table) JoinFailed(task string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(task)
}

// Leave tells the table that the caller is about to delete the container from its shim. Leave of
// the last container of a group waits until no other container is joining, or until ctx ends.
func (g *Table) Leave(ctx context.Context, task string) error {
	for {
		g.mu.Lock()
		grp, changed := g.member[task], g.changed.Changed()
		last := grp != nil && grp.joined[task] && len(grp.joined) == 1
		if !last || len(grp.joining) == 0 {
			g.leaveLocked(task)
			g.mu.Unlock()
			return nil
		}
		g.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g *Table) leaveLocked(task string) {
	grp := g.member[task]
	if grp == nil || !grp.joining[task] && !grp.joined[task] {
		return
	}
	delete(grp.joining, task)
	delete(grp.joined, task)
	grp.retired = grp.retired || len(grp.joined) == 0 && len(grp.joining) == 0
	g.changed.Broadcast()
}

// Retire closes the container's group to further containers, because the group's shim has ended.
func (g *Table) Retire(task string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if grp := g.member[task]; grp != nil {
		grp.retired = true
	}
}

// Forget drops a container that no longer exists.
func (g *Table) Forget(task string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(task)
	g.forgetLocked(task)
}

func (g *Table) forgetLocked(task string) {
	grp := g.member[task]
	if grp == nil {
		return
	}
	delete(g.member, task)
	delete(grp.service, task)
	if len(grp.service) == 0 {
		delete(g.byName, grp.name)
	}
}

func (g *Table) addLocked(name string) *group {
	grp := &group{name: name, service: make(map[string]string), joining: make(map[string]bool), joined: make(map[string]bool)}
	g.byName[name] = grp
	return grp
}

func (g *group) count(service string) int {
	n := 0
	for _, s := range g.service {
		if s == service {
			n++
		}
	}
	return n
}

//go:build linux

// Package shimgroup decides which containers share a shim process.
//
// It owns the table of groups of one node: which container is in which group, and how far each
// container has come with the group's shim. It refuses to start shims and to talk to containerd;
// the caller tells it what it is about to do and what became of it. Package containerd calls it.
// It runs no goroutine. Join and Leave block until other calls have moved on or their context ends.
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
// end when a shim dies. A shim needs 12 MB of memory, almost all of it for itself: with 17
// containers in a shim, each costs less than 1 MB. A larger group does not start more slowly,
// because a shim sets several containers up at once.
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
	run   string // part of group names: tells the groups of this process from earlier ones

	mu      sync.Mutex // guards what follows
	loaded  bool
	next    int
	byName  map[string]*group
	member  map[string]*group // by task
	changed broadcast.Signal  // sent when a container has joined or left
}

// group is the containers of one shim.
type group struct {
	name    string
	service map[string]string // of each member, by task
	joining map[string]bool   // members that the shim is being asked to set up
	joined  map[string]bool   // members that the shim has
	retired bool              // no further container may join
}

// New returns an empty table. build names what the shims run from; only containers of one build
// share shims. An empty build stands for the shims of a containerd that the host brings.
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

// Load takes over the groups of an earlier process. It calls existing on the first call that
// succeeds and returns its error; later calls do nothing. Groups of other builds, and groups in
// which no container was started, are retired.
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
	if best == nil || bestSame > 0 && spread == 1 {
		g.next++
		best = g.addLocked(fmt.Sprintf("%s-%s-%d", g.build, g.run, g.next))
	}
	best.service[task] = service
	g.member[task] = best
	return best
}

// Join tells the table that the caller is about to ask the container's shim to set it up. A call of
// Joined or Left must follow. The first container of a group joins alone, because two that start
// the shim at the same time can start two shims, one of which is then lost; the others wait until
// it has joined or ctx ends. moved reports that the assigned group is retired, and that the
// container was put into another group.
func (g *Table) Join(ctx context.Context, task, service string) (name string, moved bool, err error) {
	for {
		g.mu.Lock()
		grp, changed := g.member[task], g.changed.Changed()
		if grp == nil || grp.retired {
			g.forgetLocked(task)
			grp = g.assignLocked(task, service)
			moved = true
		}
		// A container that is already joining was asked for before, and the outcome is not known.
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

// Joined tells the table that the shim has set the container up.
func (g *Table) Joined(task string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if grp := g.member[task]; grp != nil {
		delete(grp.joining, task)
		grp.joined[task] = true
		g.notifyLocked()
	}
}

// Left tells the table that the shim does not have the container: its set-up or start failed.
func (g *Table) Left(task string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(task)
}

// Leave tells the table that the caller is about to delete the container from its shim. The last
// container of a group waits for those that are joining, or until ctx ends.
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
	g.notifyLocked()
}

// Retire closes the container's group to further containers, because its shim does not answer.
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

// notifyLocked wakes the callers that wait in Join and Leave.
func (g *Table) notifyLocked() {
	g.changed.Broadcast()
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

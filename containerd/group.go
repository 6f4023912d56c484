//go:build linux

package containerd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
)

// groupSize is how many containers share a shim, and how many a shim's death takes at most. A shim costs 12 MB, most of
// them its own start and not its containers: with 17 of them one costs less than 1 MB of all that is there for it.
// It sets up several at once: more in a shim start as fast.
const groupSize = 17

// groups decides which containers share a shim. A service with more than one container on the node has them in more
// than one group, so that a shim's death does not take all of it.
//
// A shim is started by its first container, which joins alone. It ends with its last container, and one that is on its way out may still accept a connection. So nobody joins a
// group that has been left by its last container, its name is never used again, and the last container does not leave
// while another is about to join.
type groups struct {
	build string
	run   string // tells this process's groups from those of an earlier one

	mu      sync.Mutex // guards what follows
	loaded  bool
	next    int
	byName  map[string]*group
	member  map[string]*group // by task
	changed chan struct{}     // closed and replaced when somebody has joined, or not
}

// group is the containers of one shim.
type group struct {
	name    string
	service map[string]string // of each member, by task
	joining map[string]bool   // members that the shim is being asked to set up
	joined  map[string]bool   // members that the shim has
	retired bool              // nobody may join
}

func newGroups(build string) *groups {
	if build == "" {
		build = "host"
	}
	return &groups{
		build:   build,
		run:     fmt.Sprintf("%08x", rand.Uint32()),
		byName:  make(map[string]*group),
		member:  make(map[string]*group),
		changed: make(chan struct{}),
	}
}

// member is a container of an earlier process.
type member struct {
	task, service, group string
	started              bool
}

// load takes over what an earlier process decided, once. Groups of other builds take nobody in.
func (g *groups) load(existing func() ([]member, error)) error {
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
		if g.member[m.task] != nil || m.group == "" {
			continue
		}
		grp := g.byName[m.group]
		if grp == nil {
			grp = g.addLocked(m.group)
			grp.retired = !strings.HasPrefix(m.group, g.build+"-")
		}
		grp.service[m.task] = m.service
		if m.started {
			grp.joined[m.task] = true
		}
		g.member[m.task] = grp
	}
	// Where nobody was started there is no shim, or one that is ending.
	for _, grp := range g.byName {
		grp.retired = grp.retired || len(grp.joined) == 0
	}
	g.loaded = true
	return nil
}

// assign returns the group for a container that is to be created.
func (g *groups) assign(task, service string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if grp := g.member[task]; grp != nil {
		return grp.name
	}
	return g.assignLocked(task, service).name
}

func (g *groups) assignLocked(task, service string) *group {
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

// join says that a container's shim is about to be asked to set it up; joined or left must follow. The first of a group
// joins alone: two that start its shim at once can start two, one of which nobody finds again. When the group has died
// since it was assigned the container gets another one: moved.
func (g *groups) join(ctx context.Context, task, service string) (name string, moved bool, err error) {
	for {
		g.mu.Lock()
		grp, changed := g.member[task], g.changed
		if grp == nil || grp.retired {
			g.forgetLocked(task)
			grp = g.assignLocked(task, service)
			moved = true
		}
		// One that is joining already was asked for before, and nobody knows what came of that.
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

// joined says that the shim has the container.
func (g *groups) joined(task string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if grp := g.member[task]; grp != nil {
		delete(grp.joining, task)
		grp.joined[task] = true
		g.tellLocked()
	}
}

// left says that the shim does not have the container after all: its set-up or start did not succeed.
func (g *groups) left(task string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(task)
}

// leave says that the container is about to be deleted. The last one waits for those that are joining.
func (g *groups) leave(ctx context.Context, task string) error {
	for {
		g.mu.Lock()
		grp, changed := g.member[task], g.changed
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

func (g *groups) leaveLocked(task string) {
	grp := g.member[task]
	if grp == nil || !grp.joining[task] && !grp.joined[task] {
		return
	}
	delete(grp.joining, task)
	delete(grp.joined, task)
	grp.retired = grp.retired || len(grp.joined) == 0 && len(grp.joining) == 0
	g.tellLocked()
}

// retire closes a container's group: its shim does not answer.
func (g *groups) retire(task string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if grp := g.member[task]; grp != nil {
		grp.retired = true
	}
}

// forget drops a container that is gone.
func (g *groups) forget(task string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(task)
	g.forgetLocked(task)
}

func (g *groups) forgetLocked(task string) {
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

// tellLocked wakes those who wait to leave.
func (g *groups) tellLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *groups) addLocked(name string) *group {
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

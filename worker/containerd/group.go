//go:build linux

package containerd

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
)

// groupSize is how many containers share a shim: ten cost about as much as one does alone, and a shim's death takes no
// more than ten.
const groupSize = 10

// groups decides which containers share a shim. A service with more than one container on the node has them in more
// than one group, so that a shim's death does not take all of it. Group names are never used again: a shim whose last
// container is gone is on its way out, and may still accept one connection.
type groups struct {
	build string
	run   string // tells this process's groups from those of an earlier one

	mu     sync.Mutex // guards what follows
	loaded bool
	next   int
	byName map[string]*group
	member map[string]*group // by task
}

// group is the containers of one shim.
type group struct {
	name    string
	service map[string]string // of each member, by task
	started map[string]bool   // members whose task the shim has
	retired bool              // had started members, and has none: nobody may join
}

func newGroups(build string) *groups {
	if build == "" {
		build = "host"
	}
	return &groups{
		build:  build,
		run:    fmt.Sprintf("%08x", rand.Uint32()),
		byName: make(map[string]*group),
		member: make(map[string]*group),
	}
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
		grp.started[m.task] = true
		g.member[m.task] = grp
	}
	g.loaded = true
	return nil
}

// member is a container of an earlier process.
type member struct{ task, service, group string }

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

// start says that a container is about to be started. When its group has died in between it gets another one: moved.
func (g *groups) start(task, service string) (name string, moved bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	grp := g.member[task]
	if grp == nil || grp.retired && !grp.started[task] {
		if grp != nil {
			g.leaveLocked(task)
		}
		grp = g.assignLocked(task, service)
		moved = true
	}
	grp.started[task] = true
	return grp.name, moved
}

// stopped says that a container's shim is done with it: it was deleted, or its start did not succeed.
func (g *groups) stopped(task string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if grp := g.member[task]; grp != nil && grp.started[task] {
		delete(grp.started, task)
		grp.retired = grp.retired || len(grp.started) == 0
	}
}

// leave forgets a container.
func (g *groups) leave(task string) {
	g.stopped(task)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(task)
}

func (g *groups) leaveLocked(task string) {
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

func (g *groups) addLocked(name string) *group {
	grp := &group{name: name, service: make(map[string]string), started: make(map[string]bool)}
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

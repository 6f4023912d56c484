//go:build linux

package plane

import (
	"errors"
	"time"
)

// Round is one time that changes were written.
type Round struct {
	Took time.Duration
	// Networks that were concerned, by name, with what was in the way there; the routing mesh is network ingress.
	Networks map[string]error
	// Gone are those that this host has no more to do with; another may have such a name again, and be among the former.
	Gone []string
}

// concerned are the networks of a round by id, with what was in the way there.
type concerned map[string]error

func (c concerned) note(id string, err error) { c[id] = errors.Join(c[id], err) }

// report says how a round went.
func (p *Plane) report(on concerned, took time.Duration) {
	r := Round{Took: took, Networks: make(map[string]error, len(on))}
	for id, err := range on {
		name, named := p.called[id]
		_, stays := p.deps.Directory.Network(id)
		switch {
		case !named: // The managers have not told of it yet.
		case stays || err != nil:
			r.Networks[name] = err
		default:
			r.Gone = append(r.Gone, name)
			delete(p.called, id)
		}
	}
	if p.deps.Programmed != nil {
		p.deps.Programmed(r)
	}
}

//go:build linux

package plane

import (
	"errors"
	"time"
)

// Round describes one round of writing changes.
type Round struct {
	// Took is the duration of the round.
	Took time.Duration
	// Networks maps the name of each network that the round changed to the error there, or nil. The
	// routing mesh counts as network ingress.
	Networks map[string]error
	// Gone are the names of networks that this host no longer uses. A name may also be in Networks,
	// if a new network has the same name.
	Gone []string
}

// roundErrors maps the ID of each network that a round changed to the error there, or nil.
type roundErrors map[string]error

func (c roundErrors) add(id string, err error) { c[id] = errors.Join(c[id], err) }

// report passes the result of a round to Deps.RoundDone.
func (p *Plane) report(perNetwork roundErrors, took time.Duration) {
	r := Round{Took: took, Networks: make(map[string]error, len(perNetwork))}
	for id, err := range perNetwork {
		name, named := p.networkNames[id]
		_, stays := p.deps.Directory.Network(id)
		switch {
		case !named: // The managers have not sent this network yet.
		case stays || err != nil:
			r.Networks[name] = err
		default:
			r.Gone = append(r.Gone, name)
			delete(p.networkNames, id)
		}
	}
	if p.deps.RoundDone != nil {
		p.deps.RoundDone(r)
	}
}

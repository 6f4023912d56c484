//go:build linux

package gossip

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/memberlist"
)

// Status of a member, as this node sees it.
type Status string

// The statuses.
const (
	// Alive answers probes, or is suspected and may still object.
	Alive Status = "alive"
	// Left has said goodbye, with its signature.
	Left Status = "left"
	// Failed did not answer, to us or to those that we asked, or others say so: whoever acts on it
	// asks the node itself first, for any member can claim it.
	Failed Status = "failed"
)

// Member is one node, this one among them.
type Member struct {
	ID   string
	Addr netip.AddrPort
	// Status since Since, by this node's clock.
	Status Status
	Since  time.Time
	Tags   map[string]string
}

// record is what is known of a member by gossip.
type record struct {
	addr netip.AddrPort
	// up: memberlist takes it for alive.
	up    bool
	since time.Time // of its status
	// meta is its newest statement, said the same read. verified: it was signed with a key that the
	// managers named.
	meta     []byte
	said     statement
	verified bool
}

func (r *record) status() Status {
	switch {
	case r.said.leaving:
		return Left
	case r.up:
		return Alive
	default:
		return Failed
	}
}

func (r *record) member(id string) Member {
	return Member{ID: id, Addr: r.addr, Status: r.status(), Since: r.since, Tags: maps.Clone(r.said.tags)}
}

// Members lists all members, by id, and a channel that is closed at the next
// change: look, act, wait for it, look again, and nothing is missed.
func (g *Gossip) Members() ([]Member, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]Member, 0, len(g.members))
	for id, r := range g.members {
		list = append(list, r.member(id))
	}
	slices.SortFunc(list, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	return list, g.changed
}

// Member finds one by id.
func (g *Gossip) Member(id string) (Member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, ok := g.members[id]
	if !ok {
		return Member{}, false
	}
	return r.member(id), true
}

// Ping sends a packet to a member by UDP and returns when the answer has come. A packet that is
// lost is sent again, until ctx ends: ErrUnavailable then.
func (g *Gossip) Ping(ctx context.Context, id string) error {
	m, ok := g.Member(id)
	if !ok {
		return fmt.Errorf("ping node %s: %w", id, errdefs.ErrNotFound)
	}
	for {
		_, err := g.list.Ping(id, net.UDPAddrFromAddrPort(m.Addr))
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errdefs.ErrUnavailable.WithMessage("no answer to a gossip packet")
		}
		var silent memberlist.NoPingResponseError
		if !errors.As(err, &silent) {
			return fmt.Errorf("ping node %s: %w", id, err)
		}
	}
}

// edit changes the record of a member that is up or not, and tells those that wait when its status
// or address has changed.
func (g *Gossip) edit(id string, up bool, change func(*record)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if up {
		g.up[id] = true
	} else {
		delete(g.up, id)
	}
	r := g.members[id]
	if r == nil {
		return
	}
	before := *r
	r.up = up
	change(r)
	if r.status() != before.status() {
		r.since = time.Now()
	} else if r.addr == before.addr {
		return
	}
	g.notify()
}

// notify is called with mu held.
func (g *Gossip) notify() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// judge drops the members that a new roster does not list, those that it lists at another address,
// and those whose statement, taken on trust before there was a roster, turns out to be forged.
func (g *Gossip) judge(r *roster) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, m := range g.members {
		trust, known := r.trust(id)
		known = known && r.places(id, m.addr.Addr()) == nil
		if known && !m.verified {
			said, err := readStatement(m.meta, id, m.addr, trust)
			if known = err == nil; known {
				m.said, m.verified = said, true
			}
		}
		if !known && id != g.self {
			delete(g.members, id)
		}
	}
	g.notify()
}

// delegate hears from memberlist, with memberlist's lock held: none of its methods calls
// memberlist.
type delegate struct{ g *Gossip }

var (
	_ memberlist.AliveDelegate = delegate{}
	_ memberlist.EventDelegate = delegate{}
	_ memberlist.Delegate      = delegate{}
)

// NotifyAlive judges every claim that a node is alive. With an error, memberlist does not hear of
// it.
func (d delegate) NotifyAlive(peer *memberlist.Node) error {
	return guarded(func() error { return d.g.hear(peer.Name, addrPort(peer.Addr, peer.Port), peer.Meta) })
}

// hear takes over what a node says of itself at an address, if the node itself has said it.
func (g *Gossip) hear(id string, addr netip.AddrPort, meta []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.members[id]
	if r != nil && r.addr == addr && bytes.Equal(r.meta, meta) {
		return nil // The usual case: what it said is known.
	}
	told := g.roster.Load()
	trust, known := told.trust(id)
	if !known {
		return errors.New("it is no member")
	}
	said, err := readStatement(meta, id, addr, trust)
	if err != nil {
		return err
	}
	if r != nil && r.addr != addr && r.status() == Alive {
		g.clash(Conflict{NodeID: id, Member: r.addr, Other: addr})
		return nil // Memberlist ignores it by itself.
	}
	// Every member sends packets there: the node must not choose where.
	if err := told.places(id, addr.Addr()); err != nil && id != g.self {
		return err
	}
	switch {
	case r == nil:
		r = &record{addr: addr, up: g.up[id], since: time.Now()}
		g.members[id] = r
	case id == g.self:
		// This node's own words, of before its clock was set back: it speaks again, later than
		// that.
		if said.made > r.said.made {
			g.floor = max(g.floor, said.made)
			wake(g.say)
		}
		return nil
	case r.verified && said.made < r.said.made && !early(r.said.made) && (r.up || said.leaving):
		return errors.New("it has said something else since")
	}
	before := r.status()
	r.addr, r.meta, r.said, r.verified = addr, bytes.Clone(meta), said, !trust.Blind
	if r.status() != before {
		r.since = time.Now()
	}
	g.notify()
	return nil
}

// clash reports a conflict to Run. The other machine will claim again.
func (g *Gossip) clash(c Conflict) {
	select {
	case g.conflicts <- c:
	default:
	}
}

// NotifyJoin and the next two are memberlist.EventDelegate.
func (d delegate) NotifyJoin(n *memberlist.Node) { d.NotifyUpdate(n) }

func (d delegate) NotifyUpdate(n *memberlist.Node) {
	d.g.edit(n.Name, true, func(r *record) { r.addr = addrPort(n.Addr, n.Port) })
}

// NotifyLeave is told that a node is dead or gone: by memberlist's packets, which any member can
// forge. That it has left counts by its statement alone.
func (d delegate) NotifyLeave(n *memberlist.Node) {
	if n.Name != d.g.self {
		d.g.edit(n.Name, false, func(*record) {})
	}
}

// NodeMeta and the rest are memberlist.Delegate. There is no state besides the membership, and
// there are no messages.
func (d delegate) NodeMeta(int) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	return d.g.members[d.g.self].meta
}

func (delegate) NotifyMsg([]byte) {}

func (delegate) GetBroadcasts(int, int) [][]byte { return nil }

func (delegate) LocalState(bool) []byte { return nil }

func (delegate) MergeRemoteState([]byte, bool) {}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// report passes a conflict on, unless it did so within the last minute.
func (g *Gossip) report(c Conflict) {
	now := time.Now()
	maps.DeleteFunc(g.told, func(_ Conflict, at time.Time) bool { return now.Sub(at) >= time.Minute })
	if _, ok := g.told[c]; ok {
		return
	}
	g.told[c] = now
	g.deps.Log.Warn(c.String(), "node", c.NodeID)
	if g.deps.Conflict != nil {
		g.deps.Conflict(c)
	}
}

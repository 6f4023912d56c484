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

// Status is the status of a member as this node sees it.
type Status string

// The statuses of a member.
const (
	// Alive: the member answers probes, or is suspected and may still object.
	Alive Status = "alive"
	// Left: the member has said goodbye with its own signature.
	Left Status = "left"
	// Failed: the member did not answer this node, nor the members that this node asked to probe
	// it, or another member claims that it has failed. Any member can claim this, so a caller that
	// acts on it must probe the member first.
	Failed Status = "failed"
)

// Member is one node of the cluster, as gossip knows it.
type Member struct {
	ID   string
	Addr netip.AddrPort
	// Since is when Status last changed, by the clock of this node.
	Status Status
	Since  time.Time
	Tags   map[string]string
}

// record is what gossip knows of one member.
type record struct {
	addr netip.AddrPort
	// up is whether memberlist reports the member as alive.
	up    bool
	since time.Time // when the status last changed
	// meta is the newest statement of the member as it was received, and statement is its content.
	// verified is whether the statement was signed with a key that the managers have sent.
	meta      []byte
	statement statement
	verified  bool
}

func (r *record) status() Status {
	switch {
	case r.statement.leaving:
		return Left
	case r.up:
		return Alive
	default:
		return Failed
	}
}

func (r *record) member(id string) Member {
	return Member{ID: id, Addr: r.addr, Status: r.status(), Since: r.since, Tags: maps.Clone(r.statement.tags)}
}

// Members returns all members, this node included, sorted by id, and a channel that is closed at
// the next change. A caller that reads the list again each time the channel closes misses no
// change.
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

// Member returns the member with that id.
func (g *Gossip) Member(id string) (Member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, ok := g.members[id]
	if !ok {
		return Member{}, false
	}
	return r.member(id), true
}

// Ping sends a UDP packet to a member and returns when the answer has come. If no answer comes, it
// sends the packet again. It returns ErrNotFound if no member has the id, and ErrUnavailable if ctx
// ends before an answer has come.
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

// updateRecord stores whether memberlist reports the node as alive. If the node has a record, it
// calls change with the record. If the status or the address changes, it calls notify.
func (g *Gossip) updateRecord(id string, up bool, change func(*record)) {
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

// notify closes the channel that Members has returned. The caller holds mu.
func (g *Gossip) notify() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// applyRoster removes the members that a new roster does not list, those that it lists at another
// address, and those with a forged statement. A forged statement may have been accepted before
// there was a roster.
func (g *Gossip) applyRoster(r *roster) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, m := range g.members {
		trust, known := r.trust(id)
		known = known && r.checkAddr(id, m.addr.Addr()) == nil
		if known && !m.verified {
			s, err := readStatement(m.meta, id, m.addr, trust)
			if known = err == nil; known {
				m.statement, m.verified = s, true
			}
		}
		if !known && id != g.self {
			delete(g.members, id)
		}
	}
	g.notify()
}

// delegate receives the events of memberlist. memberlist calls it with its own lock held, so its
// methods must not call memberlist.
type delegate struct{ g *Gossip }

var (
	_ memberlist.AliveDelegate = delegate{}
	_ memberlist.EventDelegate = delegate{}
	_ memberlist.Delegate      = delegate{}
)

// NotifyAlive implements memberlist.AliveDelegate. memberlist calls it for every claim that a node
// is alive, and ignores the claim if it returns an error.
func (d delegate) NotifyAlive(peer *memberlist.Node) error {
	return recovered(func() error { return d.g.handleAlive(peer.Name, addrPort(peer.Addr, peer.Port), peer.Meta) })
}

// handleAlive stores the statement of a node at an address. It returns an error if that node has
// not signed the statement, has since made a newer one, or must not be at that address.
func (g *Gossip) handleAlive(id string, addr netip.AddrPort, meta []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.members[id]
	if r != nil && r.addr == addr && bytes.Equal(r.meta, meta) {
		return nil // The usual case: the statement is already stored.
	}
	roster := g.roster.Load()
	trust, known := roster.trust(id)
	if !known {
		return errors.New("the managers do not list the node as a member")
	}
	s, err := readStatement(meta, id, addr, trust)
	if err != nil {
		return err
	}
	if r != nil && r.addr != addr && r.status() == Alive {
		g.queueConflict(Conflict{NodeID: id, Member: r.addr, Other: addr})
		return nil // memberlist itself ignores the second address.
	}
	// All members send packets to that address, so the managers decide it and not the node.
	if err := roster.checkAddr(id, addr.Addr()); err != nil && id != g.self {
		return err
	}
	switch {
	case r == nil:
		r = &record{addr: addr, up: g.up[id], since: time.Now()}
		g.members[id] = r
	case id == g.self && trust.AnyKey:
		return errors.New("the claim about this node is not the node's own, and the managers have not sent the keys yet")
	case id == g.self:
		// Another member passes on a statement of this node. If it is newer than the present one,
		// this node made it before its clock was set back, and must make another one with a later
		// time.
		if s.issued > r.statement.issued {
			g.minIssued = max(g.minIssued, s.issued)
			wake(g.announceNow)
		}
		return nil
	case r.verified && s.issued < r.statement.issued && !tooFarAhead(r.statement.issued) && (r.up || s.leaving):
		return errors.New("the statement is older than the node's last one")
	}
	before := r.status()
	r.addr, r.meta, r.statement, r.verified = addr, bytes.Clone(meta), s, !trust.AnyKey
	if r.status() != before {
		r.since = time.Now()
	}
	g.notify()
	return nil
}

// queueConflict passes a conflict to Run. A conflict is dropped when the queue is full, because the
// other machine repeats its claim.
func (g *Gossip) queueConflict(c Conflict) {
	select {
	case g.conflicts <- c:
	default:
	}
}

// NotifyJoin implements memberlist.EventDelegate.
func (d delegate) NotifyJoin(n *memberlist.Node) { d.NotifyUpdate(n) }

// NotifyUpdate implements memberlist.EventDelegate.
func (d delegate) NotifyUpdate(n *memberlist.Node) {
	d.g.updateRecord(n.Name, true, func(r *record) { r.addr = addrPort(n.Addr, n.Port) })
}

// NotifyLeave implements memberlist.EventDelegate. memberlist calls it when a node is dead or has
// left. Any member can forge the packets that lead to it, so only the statement of a node decides
// whether it has left.
func (d delegate) NotifyLeave(n *memberlist.Node) {
	if n.Name != d.g.self {
		d.g.updateRecord(n.Name, false, func(*record) {})
	}
}

// NodeMeta implements memberlist.Delegate. So do the methods below, which do nothing: gossip
// carries neither messages nor state of the application.
func (d delegate) NodeMeta(int) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	return d.g.members[d.g.self].meta
}

func (delegate) NotifyMsg([]byte) {}

func (delegate) GetBroadcasts(int, int) [][]byte { return nil }

func (delegate) LocalState(bool) []byte { return nil }

func (delegate) MergeRemoteState([]byte, bool) {}

// addrPort converts an address of memberlist.
func addrPort(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// report logs a conflict and calls Deps.Conflict, at most once a minute for each conflict.
func (g *Gossip) report(c Conflict) {
	now := time.Now()
	maps.DeleteFunc(g.reported, func(_ Conflict, at time.Time) bool { return now.Sub(at) >= time.Minute })
	if _, ok := g.reported[c]; ok {
		return
	}
	g.reported[c] = now
	g.deps.Log.Warn(c.String(), "node", c.NodeID)
	if g.deps.Conflict != nil {
		g.deps.Conflict(c)
	}
}

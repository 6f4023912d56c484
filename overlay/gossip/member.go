//go:build linux

package gossip

import (
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
	"github.com/hashicorp/serf/serf"
)

// Status of a member, as this node sees it.
type Status string

// The statuses.
const (
	// Alive answers probes, or is suspected and may still object.
	Alive Status = "alive"
	// Leaving has said that it goes, and is still there.
	Leaving Status = "leaving"
	// Left went as announced.
	Left Status = "left"
	// Failed did not answer, to us or to those that we asked.
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

// Members lists all members, by id, and a channel that is closed at the next
// change: look, act, wait for it, look again, and nothing is missed.
func (g *Gossip) Members() ([]Member, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]Member, 0, len(g.members))
	for _, m := range g.members {
		m.Tags = maps.Clone(m.Tags)
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	return list, g.changed
}

// Member finds one by id.
func (g *Gossip) Member(id string) (Member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m, ok := g.members[id]
	m.Tags = maps.Clone(m.Tags)
	return m, ok
}

// Ping sends a packet to a member by UDP and returns when the answer has come. A packet that is lost is sent again, until
// ctx ends: ErrUnavailable then.
func (g *Gossip) Ping(ctx context.Context, id string) error {
	m, ok := g.Member(id)
	if !ok {
		return fmt.Errorf("ping node %s: %w", id, errdefs.ErrNotFound)
	}
	for {
		_, err := g.serf.Memberlist().Ping(id, net.UDPAddrFromAddrPort(m.Addr))
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

// seedsIfAlone is empty while another member is alive.
func (g *Gossip) seedsIfAlone() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, m := range g.members {
		if id != g.self.ID && m.Status == Alive {
			return nil
		}
	}
	return slices.Clone(g.seeds)
}

// observe takes an event of serf over into the list.
func (g *Gossip) observe(ev serf.MemberEvent) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, sm := range ev.Members {
		if ev.Type == serf.EventMemberReap {
			delete(g.members, sm.Name)
			continue
		}
		m := Member{ID: sm.Name, Addr: addrPort(sm.Addr, sm.Port), Tags: maps.Clone(sm.Tags), Status: statusOf(ev.Type, sm.Status), Since: time.Now()}
		if old, ok := g.members[m.ID]; ok && old.Status == m.Status {
			m.Since = old.Since
		}
		g.members[m.ID] = m
	}
	close(g.changed)
	g.changed = make(chan struct{})
}

// statusOf goes by the event: the status in it may be of a later one.
func statusOf(ev serf.EventType, s serf.MemberStatus) Status {
	switch {
	case ev == serf.EventMemberFailed:
		return Failed
	case ev == serf.EventMemberLeave:
		return Left
	case s == serf.StatusLeaving:
		return Leaving
	default:
		return Alive
	}
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// aliveDelegate looks at every claim to be alive before memberlist does, and finds
// those at a second address. Memberlist ignores them by itself.
type aliveDelegate struct{ g *Gossip }

// NotifyAlive implements memberlist.AliveDelegate, with memberlist's lock held.
func (d aliveDelegate) NotifyAlive(peer *memberlist.Node) error {
	addr := addrPort(peer.Addr, peer.Port)
	known, ok := d.g.Member(peer.Name)
	if !ok || known.Status == Failed || known.Status == Left || known.Addr == addr {
		return nil
	}
	select {
	case d.g.conflicts <- Conflict{NodeID: peer.Name, Member: known.Addr, Other: addr}:
	default:
		// It will claim again.
	}
	return nil
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

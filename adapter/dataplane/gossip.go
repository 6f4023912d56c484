//go:build linux

package dataplane

import (
	"context"
	"crypto/ecdsa"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"swarm/manager/dispatch/liveness"
	"swarm/node"
	"swarm/overlay/detector"
	"swarm/overlay/gossip"
	swarmv1 "swarm/proto/swarm/v1"
)

// Gossip is this node's member of the gossip cluster, together with the detector that confirms
// which nodes are dead. It implements node.Gossip and liveness.Gossip.
type Gossip struct {
	*gossip.Gossip
	self     string
	detector *detector.Detector
}

// NewGossip opens the gossip port of a member. build is the version that it announces to the other
// members. The error is ErrInvalidArgument, or that of the socket.
func NewGossip(b node.Base, build string) (*Gossip, error) {
	m := b.Membership
	advertise, err := netip.ParseAddr(m.Addr)
	if err != nil {
		return nil, err
	}
	role := "worker"
	if m.Manager {
		role = "manager"
	}
	g, err := gossip.New(gossip.Config{
		NodeID: m.NodeID, BindAddr: anyAddr(advertise), AdvertiseAddr: advertise, Port: m.GossipPort,
		Keys: m.GossipKeys,
		Tags: map[string]string{gossip.TagRole: role, gossip.TagBuild: build},
	}, gossip.Deps{
		Log:      b.Log,
		Key:      func() *ecdsa.PrivateKey { return b.Identity.Credential().Key },
		Conflict: func(c gossip.Conflict) { b.Log.Error("two machines have one node id", "conflict", c.String()) },
	})
	if err != nil {
		return nil, err
	}
	g.SetSeeds(seeds(m))
	out := &Gossip{Gossip: g, self: m.NodeID}
	out.detector = detector.New(detector.Deps{Log: b.Log, Suspects: out.suspects, Probe: out.dial})
	return out, nil
}

// seeds returns the gossip addresses of the other managers. The gossip port is the same on all
// nodes.
func seeds(m node.Membership) []string {
	var out []string
	for _, p := range m.Managers {
		if p.NodeID != m.NodeID {
			out = append(out, net.JoinHostPort(p.Addr, strconv.Itoa(int(m.GossipPort))))
		}
	}
	return out
}

// anyAddr returns the unspecified address of the family of a.
func anyAddr(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// Run implements node.Gossip.
func (g *Gossip) Run(ctx context.Context) error {
	defer g.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.Gossip.Run(ctx) })
	group.Go(func() error { return g.detector.Run(ctx) })
	return group.Wait()
}

// Members implements node.Gossip.
func (g *Gossip) Members() []*swarmv1.Member {
	members, _ := g.Gossip.Members()
	var out []*swarmv1.Member
	for _, m := range members {
		out = append(out, &swarmv1.Member{NodeId: m.ID, Addr: m.Addr.String(), Status: string(m.Status)})
	}
	return out
}

// Resolve implements node.Gossip. It takes the address and the cluster port from what the managers
// say about the node, and not from the node's own gossip. Other nodes connect there, so a node must
// not be able to send them to any address that it likes.
func (g *Gossip) Resolve(nodeID string) (node.Peer, bool) {
	p, ok := g.Peer(nodeID)
	return node.Peer{NodeID: nodeID, Addr: p.Addr.String(), Port: p.Port}, ok && p.Addr.IsValid() && p.Port != 0
}

// Alive returns the IDs of the other nodes that answer.
func (g *Gossip) Alive() []string {
	members, _ := g.Gossip.Members()
	var ids []string
	for _, m := range members {
		if m.Status == gossip.Alive && m.ID != g.self {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// StatusCounts returns the number of members by gossip status, this node included.
func (g *Gossip) StatusCounts() map[string]int {
	members, _ := g.Gossip.Members()
	count := map[string]int{}
	for _, m := range members {
		count[string(m.Status)]++
	}
	return count
}

// Status implements liveness.Gossip.
func (g *Gossip) Status(nodeID string) liveness.GossipStatus {
	m, ok := g.Member(nodeID)
	if !ok {
		return liveness.GossipUnknown
	}
	verdict, _ := g.detector.Verdict()
	return statusOf(m.Status, slices.Contains(verdict.Dead, nodeID))
}

// statusOf combines gossip's status of a node with the detector's verdict. If gossip does not
// report the node as failed, statusOf ignores the verdict, because the verdict may be from before
// the node came back.
func statusOf(s gossip.Status, dead bool) liveness.GossipStatus {
	switch {
	case s == gossip.Failed && dead:
		return liveness.GossipDead
	case s == gossip.Failed:
		return liveness.GossipFailed
	case s == gossip.Left:
		return liveness.GossipLeft
	default:
		return liveness.GossipAlive
	}
}

// Changed implements liveness.Gossip.
func (g *Gossip) Changed() (members, verdicts <-chan struct{}) {
	_, members = g.Gossip.Members()
	_, verdicts = g.detector.Verdict()
	return members, verdicts
}

// suspects returns the nodes that gossip reports as failed or left, and a channel that is closed at
// the next change.
func (g *Gossip) suspects() (detector.Suspects, <-chan struct{}) {
	members, changed := g.Gossip.Members()
	return suspectsOf(members), changed
}

func suspectsOf(members []gossip.Member) detector.Suspects {
	var s detector.Suspects
	for _, m := range members {
		switch m.Status {
		case gossip.Failed:
			s.Failed = append(s.Failed, m.ID)
		case gossip.Left:
			s.Left = append(s.Left, m.ID)
		}
	}
	return s
}

// dial connects to a node's cluster port and closes the connection. The detector counts each answer
// as a sign of life, even a refusal.
func (g *Gossip) dial(ctx context.Context, id string) error {
	peer, ok := g.Resolve(id)
	if !ok {
		return errdefs.ErrNotFound
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", peer.HostPort())
	if err != nil {
		return err
	}
	return conn.Close()
}

//go:build linux

package dataplane

import (
	"cmp"
	"context"
	"net/netip"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/doctor"
	"swarm/node"
	"swarm/overlay/gossip"
	"swarm/overlay/probe"
	swarmv1 "swarm/proto/swarm/v1"
)

// NewProber returns the Doctor service of a member. It tests the network paths to and from the
// other members. self describes the networks on this host (Plane.Self).
func NewProber(hostname string, b node.Base, g *Gossip, self func(context.Context) (*swarmv1.SurveyedSelf, error)) *probe.Prober {
	return probe.New(probe.Config{Hostname: hostname, Data: dataPath(b.Membership)}, probe.Deps{
		Others: func() []probe.Node {
			members, _ := g.Gossip.Members()
			return targets(g.self, members, g.Peer, b.Membership)
		},
		Ping: g.Ping, Self: self,
		Dial: func(nodeID string) (grpc.ClientConnInterface, error) { return b.Dialer.DialGRPC(nodeID) },
	})
}

// targets lists the other nodes of the cluster, also those that do not answer. It uses the
// addresses that the managers list, because the other nodes send packets there. It leaves out nodes
// that the managers do not list: gossip still knows a node that was removed while it was dead. The
// ports of gossip and of overlay networks are the same on all nodes.
func targets(self string, members []gossip.Member, peer func(id string) (gossip.Peer, bool), own node.Membership) []probe.Node {
	var out []probe.Node
	for _, m := range members {
		p, ok := peer(m.ID)
		if m.ID == self || m.Status == gossip.Left || !ok {
			continue
		}
		out = append(out, probe.Node{
			ID: m.ID, Addr: p.Addr, Port: p.Port, GossipPort: own.GossipPort,
			Data: netip.AddrPortFrom(p.DataAddr, dataPath(own).Port()),
		})
	}
	return out
}

// dataPath returns the address at which a member receives packets of overlay networks.
func dataPath(m node.Membership) netip.AddrPort {
	addr, err := netip.ParseAddr(m.DataPathAddr)
	if err != nil {
		addr, _ = netip.ParseAddr(m.Addr) // It is valid: package node parsed it when the host joined.
	}
	return netip.AddrPortFrom(addr, cmp.Or(m.DataPathPort, probe.DefaultDataPort))
}

// NewGatekeeper returns the Admission service of a manager. A host that is about to join calls it
// to test the network paths. admits returns nil if the caller of the RPC has proved a join token.
func NewGatekeeper(hostname string, own node.Membership, admits func(context.Context) error) *probe.JoinServer {
	return probe.NewJoinServer(func(ctx context.Context) (probe.Manager, error) {
		if err := admits(ctx); err != nil {
			return probe.Manager{}, err
		}
		addr, err := netip.ParseAddr(own.Addr)
		return probe.Manager{Hostname: hostname, Addr: addr, Port: own.Port, GossipPort: own.GossipPort, Data: dataPath(own)}, err
	})
}

// CheckJoin tests the network paths between this host, which is about to join as m, and the manager
// at the other end of conn. It returns ErrFailedPrecondition if a path is blocked; the text says
// what to do.
func CheckJoin(ctx context.Context, conn grpc.ClientConnInterface, m node.Membership) error {
	addr, err := netip.ParseAddr(m.Addr)
	if err != nil {
		return err
	}
	met, err := probe.Join(ctx, swarmv1.NewAdmissionClient(conn), probe.Joiner{
		Addr: addr, Port: m.Port, DataAddr: dataPath(m).Addr(), Bind: anyAddr(addr),
	})
	if err != nil {
		return err
	}
	reason := doctor.JudgeJoin(doctor.SurveyedNode(met), m.Addr)
	if reason == "" {
		return nil
	}
	return errdefs.ErrFailedPrecondition.WithMessage(reason + "; to join in spite of this: --skip-network-check")
}

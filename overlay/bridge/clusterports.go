//go:build linux

package bridge

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostport"
	"swarm/overlay/nft"
)

// blockedPorts are the cluster's own ports. The rules stop tasks without HostAccess from reaching
// them. A firewall in front of these ports would not stop a task, because the task's packets have
// the address of its host, which is a node. The inet table has these sets for that:
//
//	set ports:       protocol . port   the cluster's own ports, at any address
//	set hostaccess4: address           tasks with HostAccess
//	set connrate4:   address           the rate at which each task opens connections
//
// The rules match ports and not addresses, because this host cannot know every address of another
// node. If each node reported its addresses, a node could report any address and so block it for
// all tasks.
type blockedPorts struct {
	own ClusterPorts
	// peers are the TCP ports on which the nodes serve the cluster.
	peers []uint16
}

// ClusterPorts are the ports on which this host serves the cluster: Cluster (TCP), Gossip (TCP and
// UDP) and Data (UDP, for VXLAN). Cluster may differ between nodes.
type ClusterPorts struct{ Cluster, Gossip, Data uint16 }

// BlockClusterPorts sets the ports on which this host serves the cluster. The rules reject packets
// from tasks without HostAccess to these ports and to those of BlockPeerPorts, at every address.
// Without a call the rules reject neither. Call it before Attach and Restore.
func (b *Bridge) BlockClusterPorts(ports ClusterPorts) { b.cfg.blocked.own = ports }

// BlockPeerPorts sets the TCP ports on which all nodes serve the cluster. It replaces the ports of
// the last call. It may be called at any time.
func (b *Bridge) BlockPeerPorts(ctx context.Context, peers []uint16) error {
	release, err := b.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if slices.Equal(b.cfg.blocked.peers, peers) {
		return nil
	}
	if !b.up {
		b.cfg.blocked.peers = peers
		return nil
	}
	b.net.blocked.peers = peers
	if err := b.net.replacePorts(); err != nil {
		// Another program may have flushed the rules, so write all rules again.
		if err := b.net.sync(b.published()); err != nil {
			return err
		}
	}
	b.cfg.blocked.peers = peers
	return nil
}

// portsSet describes the set ports.
func (r *rules) portsSet() *nftables.Set {
	return &nftables.Set{
		Table: r.table(), ID: 1, Name: "ports", Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
	}
}

func portKey(p Port) []byte {
	return append(nft.Pad([]byte{hostport.Number(p.Protocol)}), nft.Port(p.Published)...)
}

// elements returns the elements of the set ports without duplicates. It returns none if
// BlockClusterPorts was not called.
func (p blockedPorts) elements() (out []nftables.SetElement) {
	if p.own == (ClusterPorts{}) {
		return nil
	}
	all := []Port{
		{Published: p.own.Cluster, Protocol: "tcp"},
		{Published: p.own.Gossip, Protocol: "tcp"},
		{Published: p.own.Gossip, Protocol: "udp"},
		{Published: p.own.Data, Protocol: "udp"},
	}
	for _, port := range p.peers {
		all = append(all, Port{Published: port, Protocol: "tcp"})
	}
	seen := map[Port]bool{}
	for _, p := range all {
		if !seen[p] {
			seen[p] = true
			out = append(out, nftables.SetElement{Key: portKey(p)})
		}
	}
	return out
}

// addPorts queues the sets ports and connrate, and the elements of the set ports.
func (r *rules) addPorts(c *nftables.Conn) error {
	sets := []*nftables.Set{r.portsSet()}
	for _, f := range nft.Families() {
		sets = append(sets, r.connectionRateSet(f))
	}
	for _, set := range sets {
		if err := c.AddSet(set, nil); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
	}
	return nft.AddElements(c, r.portsSet(), r.blocked.elements())
}

// replacePorts replaces the elements of the set ports.
func (r *rules) replacePorts() error {
	return r.conn.Do(func(c *nftables.Conn) error {
		c.FlushSet(r.portsSet())
		if err := nft.AddElements(c, r.portsSet(), r.blocked.elements()); err != nil {
			return err
		}
		return c.Flush()
	})
}

// portsIntact reports whether the set ports in the kernel has as many elements as it should have.
func (r *rules) portsIntact(c *nftables.Conn) (bool, error) {
	got, err := c.GetSetElements(r.portsSet())
	return err == nil && len(got) == len(r.blocked.elements()), err
}

// rejectClusterPorts is the rule of one family that rejects packets to the cluster's own ports.
func (r *rules) rejectClusterPorts(f nft.Family) []expr.Any {
	hostAccess, ports := r.sets(f)[hostAccessSet], r.portsSet()
	return nft.Join(f.Is(), f.LoadSrc(nft.Reg),
		[]expr.Any{
			&expr.Lookup{SourceRegister: nft.Reg, SetName: hostAccess.Name, SetID: hostAccess.ID, Invert: true},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: nft.Reg32(0)},
			&expr.Payload{DestRegister: nft.Reg32(1), Base: expr.PayloadBaseTransportHeader, Offset: portDst, Len: 2},
			&expr.Lookup{SourceRegister: nft.Reg, SetName: ports.Name, SetID: ports.ID},
			rejectProhibited(),
		})
}

// connectionsPerSecond and connectionBurst limit how fast a task opens connections. The host tracks
// the connections of all its tasks in one table, with 262,144 entries by default. The kernel keeps
// an entry of a UDP flow or of a TCP connection without an answer for at most 120 s. In 120 s one
// task opens at most 120 * 1000 + 32768 connections, which is about 60 % of the
// table.
const (
	connectionsPerSecond = 1000
	connectionBurst      = 32768
)

// connectionRateSet holds the rate at which each task opens connections. The rules fill it.
func (r *rules) connectionRateSet(f nft.Family) *nftables.Set {
	return &nftables.Set{
		Table: r.table(), ID: uint32(f.Number)*10 + 8, Name: "connrate" + f.Digit, KeyType: f.Address,
		Dynamic: true, HasTimeout: true, Timeout: 2 * time.Minute, Size: 1 << 16,
	}
}

// limitNewConnections is the rule of one family that drops new connections above the rate limit.
func (r *rules) limitNewConnections(f nft.Family) []expr.Any {
	s := r.connectionRateSet(f)
	return nft.Join(nft.Opening(), f.Is(), f.LoadSrc(nft.Reg), &expr.Dynset{
		SrcRegKey: nft.Reg, SetName: s.Name, SetID: s.ID, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE),
		Exprs: []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Unit: expr.LimitTimeSecond, Rate: connectionsPerSecond, Burst: connectionBurst, Over: true}},
	}, nft.Drop())
}

// rejectProhibited tells the sender by ICMP that a firewall rule rejects its packet.
func rejectProhibited() expr.Any {
	return &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}
}

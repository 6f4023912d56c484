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

// guard is what tasks without HostAccess are kept from: the cluster's own ports. A task that could reach them would be a
// stranger inside of every firewall that keeps strangers from them, with the address of its host.
//
//	set ports:   protocol . port   the cluster's own ports, at whatever address
//	set open4:   addresses of tasks with HostAccess
//	set opens4:  how fast each task opens connections
//
// Addresses have no part in it. This host cannot know all of another node's, and a list of them that nodes report would let
// each node cut tasks everywhere off from addresses that are not its own.
type guard struct {
	ports ClusterPorts
	// others are cluster ports of other nodes.
	others []uint16
}

// ClusterPorts are those that this host serves the cluster on. Cluster may differ from node to node.
type ClusterPorts struct{ Cluster, Gossip, Data uint16 }

// Guard keeps tasks without HostAccess from the cluster's own ports, at every address: these and those of GuardPorts.
// Called before any Attach or Restore.
func (b *Bridge) Guard(ports ClusterPorts) { b.cfg.guard.ports = ports }

// GuardPorts tells the TCP ports that nodes serve the cluster on. It replaces what was told before.
func (b *Bridge) GuardPorts(ctx context.Context, others []uint16) error {
	release, err := b.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if slices.Equal(b.cfg.guard.others, others) {
		return nil
	}
	if !b.up {
		b.cfg.guard.others = others
		return nil
	}
	b.net.guard.others = others
	if err := b.net.replacePorts(); err != nil {
		// Somebody may have flushed the host's rules: write them all.
		if err := b.net.sync(b.published()); err != nil {
			return err
		}
	}
	b.cfg.guard.others = others
	return nil
}

// portsSet is the set ports.
func (r *rules) portsSet() *nftables.Set {
	return &nftables.Set{
		Table: r.table(), ID: 1, Name: "ports", Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
	}
}

func portKey(p Port) []byte {
	return append(nft.Pad([]byte{hostport.Number(p.Protocol)}), nft.Port(p.Published)...)
}

// elements are those of the set ports, each once. The zero ClusterPorts guards nothing.
func (g guard) elements() (out []nftables.SetElement) {
	if g.ports == (ClusterPorts{}) {
		return nil
	}
	all := []Port{
		{Published: g.ports.Cluster, Protocol: "tcp"},
		{Published: g.ports.Gossip, Protocol: "tcp"},
		{Published: g.ports.Gossip, Protocol: "udp"},
		{Published: g.ports.Data, Protocol: "udp"},
	}
	for _, port := range g.others {
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

// syncGuard queues the sets, with the elements of ports.
func (r *rules) syncGuard(c *nftables.Conn) error {
	sets := []*nftables.Set{r.portsSet()}
	for _, f := range nft.Families() {
		sets = append(sets, r.opensSet(f))
	}
	for _, set := range sets {
		if err := c.AddSet(set, nil); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
	}
	return nft.AddElements(c, r.portsSet(), r.guard.elements())
}

// replacePorts replaces the elements of the set ports.
func (r *rules) replacePorts() error {
	return r.conn.Do(func(c *nftables.Conn) error {
		c.FlushSet(r.portsSet())
		if err := nft.AddElements(c, r.portsSet(), r.guard.elements()); err != nil {
			return err
		}
		return c.Flush()
	})
}

// guardIntact compares the size of the set.
func (r *rules) guardIntact(c *nftables.Conn) (bool, error) {
	got, err := c.GetSetElements(r.portsSet())
	return err == nil && len(got) == len(r.guard.elements()), err
}

// refuse is the rule of one family that refuses what is for the cluster's own ports.
func (r *rules) refuse(f nft.Family) []expr.Any {
	open, ports := r.sets(f)[openSet], r.portsSet()
	return nft.Join(f.Is(), f.LoadSrc(nft.Reg),
		[]expr.Any{
			&expr.Lookup{SourceRegister: nft.Reg, SetName: open.Name, SetID: open.ID, Invert: true},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: nft.Reg32(0)},
			&expr.Payload{DestRegister: nft.Reg32(1), Base: expr.PayloadBaseTransportHeader, Offset: portDst, Len: 2},
			&expr.Lookup{SourceRegister: nft.Reg, SetName: ports.Name, SetID: ports.ID},
			prohibited(),
		})
}

// The host tracks the connections of all its tasks in one table, of 262,144 entries by default. What a task opens at this
// rate fills at most 60 % of it: an entry without an answer is kept for 30 s (UDP) or 120 s (TCP), one with for 120 s (UDP).
const (
	opensEachSecond = 1000
	opensAtOnce     = 32768
)

// opensSet holds how fast each task opens connections.
func (r *rules) opensSet(f nft.Family) *nftables.Set {
	return &nftables.Set{
		Table: r.table(), ID: uint32(f.Number)*10 + 8, Name: "opens" + f.Digit, KeyType: f.Address,
		Dynamic: true, HasTimeout: true, Timeout: 2 * time.Minute, Size: 1 << 16,
	}
}

// pace is the rule of one family that drops what opens connections too fast.
func (r *rules) pace(f nft.Family) []expr.Any {
	s := r.opensSet(f)
	return nft.Join(nft.Opening(), f.Is(), f.LoadSrc(nft.Reg), &expr.Dynset{
		SrcRegKey: nft.Reg, SetName: s.Name, SetID: s.ID, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE),
		Exprs: []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Unit: expr.LimitTimeSecond, Rate: opensEachSecond, Burst: opensAtOnce, Over: true}},
	}, nft.Drop())
}

// prohibited tells the sender that a rule is in the way.
func prohibited() expr.Any {
	return &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}
}

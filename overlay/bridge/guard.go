//go:build linux

package bridge

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostport"
	"swarm/overlay/nft"
)

// guard is what tasks without HostAccess are kept from. A task that could reach the cluster's own ports would be a stranger
// inside of every firewall that keeps strangers from them, with the address of its host.
//
//	set own:     protocol . port             ports of this host, at every address of it
//	set nodes4:  address . protocol . port   ports of nodes
//	set open4:   addresses of tasks with HostAccess
//	set opens4:  how fast each task opens connections
type guard struct {
	ports ClusterPorts
	nodes []netip.AddrPort
}

// ClusterPorts are those that every node serves the cluster on. Cluster may differ from node to node.
type ClusterPorts struct{ Cluster, Gossip, Data uint16 }

// at lists the ports of a node: of all addresses of this host when addr is not valid. The zero ClusterPorts has none.
func (p ClusterPorts) at(addr netip.Addr) []Port {
	if p == (ClusterPorts{}) {
		return nil
	}
	return []Port{
		{HostIP: addr, Published: p.Cluster, Protocol: "tcp"},
		{HostIP: addr, Published: p.Gossip, Protocol: "tcp"},
		{HostIP: addr, Published: p.Gossip, Protocol: "udp"},
		{HostIP: addr, Published: p.Data, Protocol: "udp"},
	}
}

// Guard keeps tasks without HostAccess from the cluster's own ports: at every address of this host, and at those of
// GuardNodes. Called before any Attach or Restore.
func (b *Bridge) Guard(ports ClusterPorts) { b.cfg.guard.ports = ports }

// GuardNodes tells the addresses of all nodes, each with its port for the cluster. It replaces what was told before.
func (b *Bridge) GuardNodes(ctx context.Context, nodes []netip.AddrPort) error {
	release, err := b.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if slices.Equal(b.cfg.guard.nodes, nodes) {
		return nil
	}
	if !b.up {
		b.cfg.guard.nodes = nodes
		return nil
	}
	b.net.guard.nodes = nodes
	if err := b.net.replaceNodes(); err != nil {
		// Somebody may have flushed the host's rules: write them all.
		if err := b.net.sync(b.published()); err != nil {
			return err
		}
	}
	b.cfg.guard.nodes = nodes
	return nil
}

// portsSet is the set own.
func (r *rules) portsSet() *nftables.Set {
	return &nftables.Set{
		Table: r.table(), ID: 1, Name: "own", Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
	}
}

// nodesSet is the set nodes of one family.
func (r *rules) nodesSet(f nft.Family) *nftables.Set {
	return &nftables.Set{
		Table: r.table(), ID: uint32(f.Number)*10 + 9, Name: "nodes" + f.Digit, Concatenation: true,
		KeyType: nftables.MustConcatSetType(f.Address, nftables.TypeInetProto, nftables.TypeInetService),
	}
}

func portKey(p Port) []byte {
	return append(nft.Pad([]byte{hostport.Number(p.Protocol)}), nft.Port(p.Published)...)
}

func (g guard) portElements() (out []nftables.SetElement) {
	for _, p := range g.ports.at(netip.Addr{}) {
		out = append(out, nftables.SetElement{Key: portKey(p)})
	}
	return out
}

// nodeElements are those of the set nodes of one family, each once.
func (g guard) nodeElements(f nft.Family) (out []nftables.SetElement) {
	seen := map[Port]bool{}
	for _, n := range g.nodes {
		ports := g.ports
		ports.Cluster = n.Port()
		for _, p := range ports.at(n.Addr().Unmap()) {
			if f.Of(p.HostIP) && !seen[p] {
				seen[p] = true
				out = append(out, nftables.SetElement{Key: append(p.HostIP.AsSlice(), portKey(p)...)})
			}
		}
	}
	return out
}

// syncGuard queues the sets with their elements.
func (r *rules) syncGuard(c *nftables.Conn) error {
	sets := map[*nftables.Set][]nftables.SetElement{r.portsSet(): r.guard.portElements()}
	for _, f := range nft.Families() {
		sets[r.nodesSet(f)] = r.guard.nodeElements(f)
		sets[r.opensSet(f)] = nil
	}
	for s, elements := range sets {
		if err := c.AddSet(s, nil); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
		if err := nft.AddElements(c, s, elements); err != nil {
			return err
		}
	}
	return nil
}

// replaceNodes replaces the elements of the sets nodes.
func (r *rules) replaceNodes() error {
	return r.conn.Do(func(c *nftables.Conn) error {
		for _, f := range nft.Families() {
			s := r.nodesSet(f)
			c.FlushSet(s)
			if err := nft.AddElements(c, s, r.guard.nodeElements(f)); err != nil {
				return err
			}
		}
		return c.Flush()
	})
}

// guardIntact compares the sizes of the sets.
func (r *rules) guardIntact(c *nftables.Conn) (bool, error) {
	want := map[*nftables.Set]int{r.portsSet(): len(r.guard.portElements())}
	for _, f := range nft.Families() {
		want[r.nodesSet(f)] = len(r.guard.nodeElements(f))
	}
	for s, n := range want {
		got, err := c.GetSetElements(s)
		if err != nil || len(got) != n {
			return false, err
		}
	}
	return true, nil
}

// refuse is the rule of one family that refuses what a set has: of ports alone, or of addresses and ports.
func (r *rules) refuse(f nft.Family, of *nftables.Set, withAddress bool) []expr.Any {
	open := r.sets(f)[openSet]
	rule := nft.Join(f.Is(), f.LoadSrc(nft.Reg), &expr.Lookup{SourceRegister: nft.Reg, SetName: open.Name, SetID: open.ID, Invert: true})
	words := 0
	if withAddress {
		rule, words = append(rule, f.LoadDst(nft.Reg)), f.Words()
	}
	return append(rule,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: nft.Reg32(words)},
		&expr.Payload{DestRegister: nft.Reg32(words + 1), Base: expr.PayloadBaseTransportHeader, Offset: portDst, Len: 2},
		&expr.Lookup{SourceRegister: nft.Reg, SetName: of.Name, SetID: of.ID},
		prohibited())
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

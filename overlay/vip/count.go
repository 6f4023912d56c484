//go:build linux

package vip

import (
	"bytes"
	"context"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"swarm/overlay/nft"
)

// Connections counts the connections that began at one interface. A flow of datagrams counts as a
// connection.
type Connections struct{ Accepted, Made uint64 }

// connectionCounter counts the connections of one direction: a chain adds interfaces to a set and
// counts them. A nat chain sees only the first packet of a connection. Its hook runs after the
// redirection of virtual addresses.
type connectionCounter struct {
	name     string
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	by       expr.MetaKey
	id       uint32
}

// directions returns the counters of accepted and of made connections.
func directions() (accepted, made connectionCounter) {
	return connectionCounter{"accepted", nftables.ChainHookInput, nftables.ChainPriorityNATSource, expr.MetaKeyIIFNAME, 3},
		connectionCounter{"made", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, expr.MetaKeyOIFNAME, 4}
}

func (d connectionCounter) set() *nftables.Set {
	return &nftables.Set{Table: table(), ID: d.id, Name: d.name, KeyType: nftables.TypeIFName, Dynamic: true}
}

// create queues the set, the chain and the rule of the counter.
func (d connectionCounter) create(conn *nftables.Conn) error {
	s := d.set()
	if err := conn.AddSet(s, nil); err != nil {
		return err
	}
	chain := conn.AddChain(&nftables.Chain{
		Table: s.Table, Name: "count-" + d.name, Type: nftables.ChainTypeNAT, Hooknum: d.hook, Priority: d.priority,
	})
	conn.AddRule(&nftables.Rule{Table: s.Table, Chain: chain, Exprs: nft.Join(
		&expr.Meta{Key: d.by, Register: nft.Reg},
		&expr.Dynset{SrcRegKey: nft.Reg, SetName: s.Name, SetID: s.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{&expr.Counter{}}},
	)})
	return nil
}

// read returns the number of connections of each interface.
func (d connectionCounter) read(conn *nftables.Conn) (map[string]uint64, error) {
	elements, err := conn.GetSetElements(d.set())
	if err != nil {
		return nil, fmt.Errorf("read nftables set %s: %w", d.name, err)
	}
	out := make(map[string]uint64, len(elements))
	for _, e := range elements {
		name, _, _ := bytes.Cut(e.Key, []byte{0})
		if e.Counter != nil {
			out[string(name)] = e.Counter.Packets
		}
	}
	return out, nil
}

// Connections returns, by the name of the interface, the number of connections that began since
// this process wrote the whole table of the namespace. It returns nil if this process has not
// written the table.
func (b *Balancer) Connections(ctx context.Context, netns string) (map[string]Connections, error) {
	s, release, err := b.acquire(ctx, netns)
	if err != nil {
		return nil, err
	}
	defer release()
	if !s.programmed {
		return nil, nil
	}
	out := make(map[string]Connections)
	err = s.conn.Do(func(c *nftables.Conn) error {
		accepted, made := directions()
		in, err := accepted.read(c)
		if err != nil {
			return err
		}
		from, err := made.read(c)
		if err != nil {
			return err
		}
		for name, n := range in {
			out[name] = Connections{Accepted: n, Made: from[name]}
		}
		for name, n := range from {
			out[name] = Connections{Accepted: in[name], Made: n}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("connections of %s: %w", netns, err)
	}
	return out, nil
}

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

// Connections are those that began by one interface, datagrams' flows too.
type Connections struct{ Accepted, Made uint64 }

// counted is one direction: a set of interfaces, filled and counted by a chain. A chain of type nat sees the first packet of a
// connection and no other, and that those to virtual addresses are led elsewhere is decided by then.
type counted struct {
	name     string
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	by       expr.MetaKey
	id       uint32
}

func directions() (accepted, made counted) {
	return counted{"accepted", nftables.ChainHookInput, nftables.ChainPriorityNATSource, expr.MetaKeyIIFNAME, 3},
		counted{"made", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, expr.MetaKeyOIFNAME, 4}
}

func (d counted) set() *nftables.Set {
	return &nftables.Set{Table: table(), ID: d.id, Name: d.name, KeyType: nftables.TypeIFName, Dynamic: true}
}

func (d counted) create(conn *nftables.Conn) error {
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

// read gives the packets counted for each interface.
func (d counted) read(conn *nftables.Conn) (map[string]uint64, error) {
	elements, err := conn.GetSetElements(d.set())
	if err != nil {
		return nil, fmt.Errorf("read what was %s: %w", d.name, err)
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

// Connections counts by interface those that began since this process wrote the namespace's table, as Program or Update does.
// None: it has not.
func (t *Tables) Connections(ctx context.Context, netns string) (map[string]Connections, error) {
	s, release, err := t.take(ctx, netns)
	if err != nil {
		return nil, err
	}
	defer release()
	if !s.known {
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

//go:build linux

package mesh

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"swarm/overlay/nft"
)

// zonesName is a table apart, which is not replaced with the other: a packet that misses its rule is of a flow that nobody knows.
//
//	map zones: hardware address -> number of the peer
//	zone (prerouting, raw): what comes from a peer is tracked in a zone of its own
//
// A client may use one port of its own towards two hosts at once, as load balancers do. If both send it on to the same third,
// that one could not tell the two connections apart, but by the peers that they come from. Answers are tracked as ever: the
// kernel keeps them apart by choosing another port of the client's.
const zonesName = "swarm-mesh-zones"

func zonesTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: zonesName}
}

func zonesMap() *nftables.Set {
	return &nftables.Set{Table: zonesTable(), ID: 1, Name: "zones", IsMap: true, KeyType: nftables.TypeEtherAddr, DataType: nftables.TypeMark}
}

func zoneChain() *nftables.Chain {
	return &nftables.Chain{
		Table: zonesTable(), Name: "zone", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	}
}

// zones makes the table, or mends it, with a zone for each peer.
func (m *Mesh) zones(peers []Node) error {
	want := make(map[string]nftables.SetElement, len(peers))
	for _, p := range peers {
		mac := p.mac()
		// Two bytes of the register are read.
		val := nft.Pad(binaryutil.NativeEndian.PutUint16(uint16(p.mark())))
		want[string(mac)] = nftables.SetElement{Key: mac, Val: val}
	}
	rules, err := nft.CountRules(zoneChain(), m.here.FD())
	if err != nil {
		return err
	}
	if rules == 1 {
		return m.conn.Do(func(c *nftables.Conn) error { return updateZones(c, want) })
	}
	err = m.conn.Do(func(c *nftables.Conn) error {
		c.AddTable(zonesTable())
		c.DelTable(zonesTable())
		c.AddTable(zonesTable())
		if err := c.AddSet(zonesMap(), nil); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
		c.AddChain(zoneChain())
		return updateZones(c, want)
	})
	if err != nil {
		return err
	}
	zones := zonesMap()
	return nft.AddZoneRule(zoneChain(), nft.Join(nft.Interface(expr.MetaKeyIIFNAME, expr.CmpOpEq, m.cfg.Device), loadPeer(),
		&expr.Lookup{SourceRegister: nft.Reg, DestRegister: nft.Reg, IsDestRegSet: true, SetName: zones.Name, SetID: zones.ID}), m.here.FD())
}

// updateZones writes the difference to what the kernel has.
func updateZones(c *nftables.Conn, want map[string]nftables.SetElement) error {
	var gone, come []nftables.SetElement
	found, err := c.GetSetElements(zonesMap())
	if err != nil {
		found = nil // It is being made.
	}
	right := make(map[string]bool, len(found))
	for _, e := range found {
		if w, ok := want[string(e.Key)]; ok && string(w.Val) == string(e.Val) {
			right[string(e.Key)] = true
			continue
		}
		gone = append(gone, e)
	}
	for key, e := range want {
		if !right[key] {
			come = append(come, e)
		}
	}
	if err := nft.DeleteElements(c, zonesMap(), gone); err != nil {
		return err
	}
	if err := nft.AddElements(c, zonesMap(), come); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", zonesName, err)
	}
	return nil
}

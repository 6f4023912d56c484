//go:build linux

package mesh

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"swarm/overlay/nft"
)

// zonesName is a table apart, which is not replaced with the other: a packet that misses its rule is of a flow that nobody knows.
//
//	device-5 (prerouting, raw): what comes from a peer, by device 5, is tracked in a zone of its own
//
// A client may use one port of its own towards two hosts at once, as load balancers do. If both send it on to the same third,
// that one could not tell the two connections apart, but by the peers that they come from. Answers are tracked as ever: the
// kernel keeps them apart by choosing another port of the client's.
const zonesName = "swarm-mesh-zones"

func zonesTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: zonesName}
}

// zones makes the table, unless there is one for the device.
func (m *Mesh) zones() error {
	chain := &nftables.Chain{
		Table: zonesTable(), Name: fmt.Sprintf("device-%d", m.rules.index), Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	}
	rules, err := nft.CountRules(chain, m.here.FD())
	if err != nil || rules == 1 {
		return err
	}
	err = m.conn.Do(func(c *nftables.Conn) error {
		c.AddTable(zonesTable())
		c.DelTable(zonesTable())
		c.AddTable(zonesTable())
		c.AddChain(chain)
		if err := c.Flush(); err != nil {
			return fmt.Errorf("write nftables table %s: %w", zonesName, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// The last two bytes of a peer's hardware address are its alone, as they are in its mark.
	return nft.AddZoneRule(chain, nft.Join(m.rules.fromPeers(),
		&expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseLLHeader, Offset: 10, Len: 2}), m.here.FD())
}

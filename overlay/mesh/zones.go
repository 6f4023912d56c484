//go:build linux

package mesh

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"swarm/overlay/nft"
)

// zonesName is the name of a second table. It is not replaced together with the first one, because
// conntrack would not find the connection of a packet that passes while the rule is missing. For a
// device with index 5 it contains:
//
//	device-5 (prerouting, raw): tracks connections from each peer in a conntrack zone of their own
//
// A client, for example a load balancer, may use one source port for connections to two hosts. If
// both hosts forward them to the same third host, only the peer distinguishes the two connections
// there. The zone applies to the original direction only. In the direction of the answers the
// kernel avoids a clash by changing the client's port.
const zonesName = "swarm-mesh-zones"

func zonesTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: zonesName}
}

// ensureZones creates the table, unless it exists for the current device.
func (m *Mesh) ensureZones() error {
	chain := &nftables.Chain{
		Table: zonesTable(), Name: fmt.Sprintf("device-%d", m.rules.index), Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	}
	rules, err := nft.CountRules(chain, m.hostNS.FD())
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
	// The zone is the last two bytes of the peer's hardware address, which are unique as in its
	// mark.
	return nft.AddZoneRule(chain, nft.Join(m.rules.fromPeers(),
		&expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseLLHeader, Offset: 10, Len: 2}), m.hostNS.FD())
}

//go:build linux

package mesh

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"swarm/overlay/nft"
)

// zonesName is the name of a second nftables table. The table `swarm-mesh` is replaced at every
// change; this one stays, because conntrack would not find the connection of a packet that passes
// while the rule below is missing. If the device has index 5, the table has one chain:
//
//	device-5 (prerouting, raw): tracks the connections from each peer in a separate conntrack zone
//
// A client, for example a load balancer, may use one source port for connections to two hosts. If
// both hosts forward them to the same third host, the two connections differ there only in the peer
// from which they come. The zones of the peers keep them apart. The answers of the
// containers are in no zone. If both connections go to the same container, their answers could not
// be told apart, so the kernel changes the client's port in one of them.
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
	err = m.rules.conn.Do(func(c *nftables.Conn) error {
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
	// The zone is the last two bytes of the peer's hardware address. They are unique, because they
	// are the last bytes of the peer's mesh address.
	return nft.AddZoneRule(chain, nft.Join(m.rules.fromPeers(),
		&expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseLLHeader, Offset: 10, Len: 2}), m.hostNS.FD())
}

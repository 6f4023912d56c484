//go:build linux

package resolve

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"swarm/overlay/nft"
)

// redirect leads what the container sends to its name server's port 53 to our port, in a table of our own. Port 53
// itself stays free for the container.
func redirect(pin string, port uint16) error {
	conn := nft.Conn{Netns: pin}
	err := conn.Do(func(c *nftables.Conn) error {
		t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "swarm-dns"})
		ch := c.AddChain(&nftables.Chain{
			Name: "output", Table: t, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
		})
		// Those of an earlier process.
		c.FlushChain(ch)
		ipv4 := nft.Families()[0]
		for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: nft.Join(
				ipv4.LoadDst(nft.Reg), nft.Equal(address.AsSlice()),
				nft.Protocol(expr.CmpOpEq, protocol),
				&expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
				nft.Equal([]byte{0, 53}),
				&expr.Immediate{Register: nft.Reg, Data: address.AsSlice()},
				&expr.Immediate{Register: nft.Reg32(ipv4.Words()), Data: nft.Port(port)},
				ipv4.DNAT(true),
			)})
		}
		return c.Flush()
	})
	if err := errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("redirect of the name server's port: %w", err)
	}
	return nil
}

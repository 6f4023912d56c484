//go:build linux

package resolve

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"swarm/overlay/nft"
)

func redirectTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "swarm-dns"}
}

// redirect sends the container's queries for port 53 of its name server to the server's port. It
// writes the table `swarm-dns` in the namespace that is pinned at pin. The container can still bind
// port 53.
func redirect(pin string, port uint16) error {
	// After a restart the port and the rules are usually the same. Do not replace them then: each
	// replacement waits for a grace period of the kernel (10 ms), one container after the other.
	conn, known := nft.Conn{Netns: pin}, false
	// If the rules cannot be read, write them. Do closes the connection after an error, and the
	// next call opens a new one.
	_ = conn.Do(func(c *nftables.Conn) (err error) {
		known, err = hasRedirect(c, port)
		return err
	})
	if known {
		return conn.Close()
	}
	err := conn.Do(func(c *nftables.Conn) error {
		t := c.AddTable(redirectTable())
		ch := c.AddChain(&nftables.Chain{
			Name: "output", Table: t, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
		})
		c.FlushChain(ch)
		ipv4 := nft.Families()[0]
		for _, protocol := range protocols {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, UserData: ruleComment(protocol, port), Exprs: nft.Join(
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
		return fmt.Errorf("redirect the container's DNS queries: %w", err)
	}
	return nil
}

var protocols = [...]byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP}

// ruleComment returns the comment by which hasRedirect recognises a rule. `nft list` shows it.
func ruleComment(protocol byte, port uint16) []byte {
	return userdata.AppendString(nil, userdata.TypeComment, fmt.Sprintf("protocol %d to port %d", protocol, port))
}

// hasRedirect reports whether the rules for the port exist already.
func hasRedirect(c *nftables.Conn, port uint16) (bool, error) {
	if exists, err := nft.Exists(c, redirectTable()); !exists || err != nil {
		return false, err
	}
	rules, err := c.GetRules(redirectTable(), &nftables.Chain{Name: "output", Table: redirectTable()})
	if err != nil || len(rules) != len(protocols) {
		return false, err
	}
	for i, protocol := range protocols {
		if !bytes.Equal(rules[i].UserData, ruleComment(protocol, port)) {
			return false, nil
		}
	}
	return true, nil
}

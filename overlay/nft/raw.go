//go:build linux

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// AddZoneRule appends the rule `<match> ct original zone set <Reg>` to an existing chain of an
// `inet` table, in its own transaction. match must load the zone into Reg. AddZoneRule builds the
// netlink message itself, because the nftables library has no `ct original`.
func AddZoneRule(chain *nftables.Chain, match []expr.Any, netns int) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	defer c.Close()
	rule, err := zoneRule(chain, match)
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	subsystem := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, unix.NFNL_SUBSYS_NFTABLES)
	messages := []netlink.Message{
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request}, Data: subsystem},
		{Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE,
			Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Append,
		}, Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, rule...)},
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: netlink.Request}, Data: subsystem},
	}
	if _, err := c.SendMessages(messages); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	// Only the rule has the Acknowledge flag, so there is one answer.
	if _, err := c.Receive(); err != nil {
		return fmt.Errorf("rule for conntrack zones: %w", err)
	}
	return nil
}

// CountRules returns the number of rules in a chain of an `inet` table. It also counts rules that
// the nftables library cannot parse. It returns zero if the chain does not exist.
func CountRules(chain *nftables.Chain, netns int) (int, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return 0, fmt.Errorf("nftables: %w", err)
	}
	defer c.Close()
	which := netlink.NewAttributeEncoder()
	which.String(unix.NFTA_RULE_TABLE, chain.Table.Name)
	which.String(unix.NFTA_RULE_CHAIN, chain.Name)
	attrs, err := which.Encode()
	if err != nil {
		return 0, fmt.Errorf("nftables: %w", err)
	}
	rules, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("list rules of %s: %w", chain.Table.Name, err)
	}
	return len(rules), nil
}

func zoneRule(chain *nftables.Chain, match []expr.Any) ([]byte, error) {
	const original = 0
	list := netlink.NewAttributeEncoder()
	for _, e := range match {
		b, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			return nil, err
		}
		list.Bytes(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, b)
	}
	list.Nested(unix.NFTA_LIST_ELEM, func(e *netlink.AttributeEncoder) error {
		e.String(unix.NFTA_EXPR_NAME, "ct")
		e.Nested(unix.NFTA_EXPR_DATA, func(d *netlink.AttributeEncoder) error {
			d.ByteOrder = binary.BigEndian
			d.Uint32(unix.NFTA_CT_KEY, unix.NFT_CT_ZONE)
			d.Uint8(unix.NFTA_CT_DIRECTION, original)
			d.Uint32(unix.NFTA_CT_SREG, Reg)
			return nil
		})
		return nil
	})
	expressions, err := list.Encode()
	if err != nil {
		return nil, err
	}
	rule := netlink.NewAttributeEncoder()
	rule.String(unix.NFTA_RULE_TABLE, chain.Table.Name)
	rule.String(unix.NFTA_RULE_CHAIN, chain.Name)
	rule.Bytes(unix.NLA_F_NESTED|unix.NFTA_RULE_EXPRESSIONS, expressions)
	return rule.Encode()
}

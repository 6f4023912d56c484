//go:build linux

package nft

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Chain with its rules. Without a hook it is one that others lead to.
type Chain struct {
	Name  string
	Type  nftables.ChainType
	Hook  *nftables.ChainHook
	Prio  *nftables.ChainPriority
	Rules [][]expr.Any
}

// Add appends a rule, of single expressions and lists of them.
func (ch *Chain) Add(parts ...any) { ch.Rules = append(ch.Rules, Join(parts...)) }

// WriteChains queues chains that a table does not have yet. All of them come before the first rule, which may lead to any.
func WriteChains(c *nftables.Conn, t *nftables.Table, chains []*Chain) {
	for _, ch := range chains {
		c.AddChain(&nftables.Chain{Name: ch.Name, Table: t, Type: ch.Type, Hooknum: ch.Hook, Priority: ch.Prio})
	}
	for _, ch := range chains {
		for _, rule := range ch.Rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: &nftables.Chain{Name: ch.Name, Table: t}, Exprs: rule})
		}
	}
}

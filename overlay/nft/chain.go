//go:build linux

package nft

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Chain is a chain with its rules. A chain without a hook runs only if another chain jumps to it.
type Chain struct {
	// Name must not be a keyword of the nft language, for example mark or masquerade, because nft
	// could not load a saved ruleset that contains the chain.
	Name  string
	Type  nftables.ChainType
	Hook  *nftables.ChainHook
	Prio  *nftables.ChainPriority
	Rules [][]expr.Any
}

// Add appends a rule. Each part is an expr.Any or a []expr.Any.
func (ch *Chain) Add(parts ...any) { ch.Rules = append(ch.Rules, Join(parts...)) }

// WriteChains queues new chains of a table. It queues all chains before the first rule, because a
// rule may jump to any of them.
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

//go:build linux

package bridge

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"swarm/overlay/hostnet"
	"swarm/overlay/nft"
)

// frames is the table of what the bridge itself passes on. The flag `isolated` of ports would not do: it lets tasks on the
// bridge that are not apart through, and stops what goes to a published port where br_netfilter is on (as beside dockerd):
// there the bridge itself passes on what was redirected.
func (r *rules) frames() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyBridge, Name: r.tableName()}
}

func (r *rules) syncFrames(c *nftables.Conn) {
	t := r.frames()
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	nft.WriteChains(c, t, r.frameChains())
}

func (r *rules) frameChains() []*nft.Chain {
	// After br_netfilter, which shows what it redirects to the host's chain `fence`.
	last := nftables.ChainPriorityRef(200) // NF_BR_PRI_FILTER_OTHER
	apart := &nft.Chain{Name: "apart", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Prio: last}
	door := &nft.Chain{Name: "door", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookInput, Prio: last}
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		apart.Add(&expr.Meta{Key: expr.MetaKeyMARK, Register: nft.Reg}, nft.NotEqual(redirected()),
			&expr.Meta{Key: key, Register: nft.Reg}, nft.Equal([]byte(apartPrefix)), nft.Drop())
	}
	for _, f := range r.families() {
		subnet, gateway := r.rangeOf(f), r.in(f, hostnet.Nth(r.subnet, 1))
		for _, prefix := range []string{cablePrefix, apartPrefix} {
			door.Add(&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: nft.Reg}, nft.Equal(binary.BigEndian.AppendUint16(nil, f.EtherType())),
				f.DstIn(expr.CmpOpEq, subnet), f.LoadDst(nft.Reg), nft.NotEqual(gateway.AsSlice()),
				&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: nft.Reg}, nft.Equal([]byte(prefix)), nft.Drop())
		}
	}
	return []*nft.Chain{apart, door}
}

// redirected is the mark of what the bridge passes on to a published port. No task can set it: a packet that leaves a
// namespace has none.
func redirected() []byte { return binaryutil.NativeEndian.PutUint32(0x5357_b21d) }

// markRedirected is the rule that sets it, for what came by the bridge.
func (r *rules) markRedirected() []expr.Any {
	return nft.Join(r.to(expr.CmpOpEq),
		nft.Redirected(), &expr.Immediate{Register: nft.Reg, Data: redirected()}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: nft.Reg})
}

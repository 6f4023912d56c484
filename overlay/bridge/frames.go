//go:build linux

package bridge

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

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
	for _, ch := range r.frameChains() {
		ch.write(c, t)
	}
}

func (r *rules) frameChains() []*chain {
	// After br_netfilter, which shows what it redirects to the host's chain `fence`.
	last := nftables.ChainPriorityRef(200) // NF_BR_PRI_FILTER_OTHER
	apart := &chain{"apart", nftables.ChainTypeFilter, nftables.ChainHookForward, last, nil}
	door := &chain{"door", nftables.ChainTypeFilter, nftables.ChainHookInput, last, nil}
	drop := &expr.Verdict{Kind: expr.VerdictDrop}
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		apart.add(&expr.Meta{Key: expr.MetaKeyMARK, Register: nft.Reg}, nft.NotEqual(redirected()),
			&expr.Meta{Key: key, Register: nft.Reg}, nft.Equal([]byte(apartPrefix)), drop)
	}
	for _, f := range nft.Families() {
		subnet, gateway := r.subnet, hostnet.Nth(r.subnet, 1)
		if f.Number == unix.NFPROTO_IPV6 {
			subnet, gateway = r.subnet6, sixth(r.subnet6, gateway, r.subnet)
		}
		if !subnet.IsValid() {
			continue
		}
		for _, prefix := range []string{cablePrefix, apartPrefix} {
			door.add(&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: nft.Reg}, nft.Equal(binary.BigEndian.AppendUint16(nil, f.EtherType())),
				f.DstIn(expr.CmpOpEq, subnet), f.LoadDst(nft.Reg), nft.NotEqual(gateway.AsSlice()),
				&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: nft.Reg}, nft.Equal([]byte(prefix)), drop)
		}
	}
	return []*chain{apart, door}
}

// redirected is the mark of what the bridge passes on to a published port. No task can set it: a packet that leaves a
// namespace has none.
func redirected() []byte { return binaryutil.NativeEndian.PutUint32(0x5357_b21d) }

// markRedirected is the rule that sets it, for what came by the bridge.
func (r *rules) markRedirected() []expr.Any {
	return nft.Join(nft.Interface(expr.MetaKeyOIFNAME, expr.CmpOpEq, r.bridge),
		nft.Redirected(), &expr.Immediate{Register: nft.Reg, Data: redirected()}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: nft.Reg})
}

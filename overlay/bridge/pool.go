//go:build linux

package bridge

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"

	"swarm/overlay/hostnet"
)

// macBridge is the second byte of the hardware addresses on the bridge.
const macBridge = 0x53

// macOf derives the hardware address: whoever gets an address again is found in
// the neighbours' tables as before.
func macOf(a netip.Addr) net.HardwareAddr { return hostnet.MAC(macBridge, a) }

// pool hands out the addresses of a subnet, the ones given back last of all: what
// remembers an old holder has time to forget it.
type pool struct {
	subnet netip.Prefix
	used   map[netip.Addr]bool
	last   uint32
}

func newPool(subnet netip.Prefix) *pool {
	return &pool{subnet: subnet, used: make(map[netip.Addr]bool), last: 1}
}

func (p *pool) gateway() netip.Addr { return hostnet.Nth(p.subnet, 1) }

// size counts the subnet's own address, the gateway and the broadcast address too.
func (p *pool) size() uint32 { return 1 << (32 - p.subnet.Bits()) }

func (p *pool) take() (netip.Addr, error) {
	for range p.size() {
		p.last++
		if p.last >= p.size()-1 {
			p.last = 2
		}
		if a := hostnet.Nth(p.subnet, p.last); !p.used[a] {
			p.used[a] = true
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("every address of %s is taken: %w", p.subnet, errdefs.ErrResourceExhausted)
}

// claim takes a certain address, that an attachment has had before.
func (p *pool) claim(a netip.Addr) error {
	if !p.subnet.Contains(a) || a == p.gateway() {
		return fmt.Errorf("address %s is not of %s: %w", a, p.subnet, errdefs.ErrInvalidArgument)
	}
	if p.used[a] {
		return fmt.Errorf("address %s is held twice: %w", a, errdefs.ErrAlreadyExists)
	}
	p.used[a] = true
	// Go on after the highest: those below may have been given back a moment ago.
	p.last = max(p.last, ordinal(a, p.subnet))
	return nil
}

// ordinal is the place of an IPv4 address in its subnet: the inverse of hostnet.Nth.
func ordinal(a netip.Addr, subnet netip.Prefix) uint32 {
	b, first := a.As4(), subnet.Masked().Addr().As4()
	return binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(first[:])
}

// sixth is the IPv6 address that goes with an IPv4 one: it has the same place in its subnet, so that one pool serves both.
// Not valid when there is no such subnet.
func sixth(subnet6 netip.Prefix, a netip.Addr, subnet netip.Prefix) netip.Addr {
	if !subnet6.IsValid() {
		return netip.Addr{}
	}
	b := subnet6.Masked().Addr().As16()
	binary.BigEndian.PutUint32(b[12:], ordinal(a, subnet))
	return netip.AddrFrom16(b)
}

func (p *pool) give(a netip.Addr) { delete(p.used, a) }

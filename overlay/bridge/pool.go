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

// macOf derives the hardware address of a task from its IPv4 address. If another task gets the
// address later, the neighbour entries for it are still correct.
func macOf(a netip.Addr) net.HardwareAddr { return hostnet.MAC(macBridge, a) }

// pool allocates the addresses of a subnet in turn. A released address is allocated again as late
// as possible, so that caches of its last user have time to expire.
type pool struct {
	subnet netip.Prefix
	used   map[netip.Addr]bool
	last   uint32
}

func newPool(subnet netip.Prefix) *pool {
	return &pool{subnet: subnet, used: make(map[netip.Addr]bool), last: 1}
}

func (p *pool) gateway() netip.Addr { return hostnet.Nth(p.subnet, 1) }

// size is the number of addresses in the subnet, with the network, gateway and broadcast addresses.
func (p *pool) size() uint32 { return 1 << (32 - p.subnet.Bits()) }

func (p *pool) allocate() (netip.Addr, error) {
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

// reserve allocates the address that an earlier process gave to a task.
func (p *pool) reserve(a netip.Addr) error {
	if !p.subnet.Contains(a) || a == p.gateway() {
		return fmt.Errorf("address %s is not a task address of %s: %w", a, p.subnet, errdefs.ErrInvalidArgument)
	}
	if p.used[a] {
		return fmt.Errorf("address %s is in use by another task: %w", a, errdefs.ErrAlreadyExists)
	}
	p.used[a] = true
	// Continue after the highest address, because a lower one may have been released a moment ago.
	p.last = max(p.last, indexOf(a, p.subnet))
	return nil
}

// indexOf returns the index of an IPv4 address in its subnet. It is the inverse of hostnet.Nth.
func indexOf(a netip.Addr, subnet netip.Prefix) uint32 {
	b, first := a.As4(), subnet.Masked().Addr().As4()
	return binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(first[:])
}

// ipv6Of returns the IPv6 address with the same index as an IPv4 address, so that one pool serves
// both families. The result is not valid if subnet6 is not.
func ipv6Of(subnet6 netip.Prefix, a netip.Addr, subnet netip.Prefix) netip.Addr {
	if !subnet6.IsValid() {
		return netip.Addr{}
	}
	b := subnet6.Masked().Addr().As16()
	binary.BigEndian.PutUint32(b[12:], indexOf(a, subnet))
	return netip.AddrFrom16(b)
}

func (p *pool) release(a netip.Addr) { delete(p.used, a) }

//go:build linux

package vxlan

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

// MAC is a hardware address.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MACOf derives the hardware address of the endpoint whose first address is a. If another endpoint
// gets the address later, the neighbour entries for it are still correct. For an IPv6 address MACOf
// uses only the last four bytes.
func MACOf(a netip.Addr) MAC {
	if a.Is4() {
		b := a.As4()
		return MAC{0x02, 0x42, b[0], b[1], b[2], b[3]}
	}
	b := a.As16()
	return MAC{0x02, 0x46, b[12], b[13], b[14], b[15]}
}

// Table holds the static entries of a device.
type Table struct {
	// Forward maps a hardware address to the underlay address of its host.
	Forward map[MAC]netip.Addr
	// Neighbours maps an IP address to its hardware address.
	Neighbours map[netip.Addr]MAC
}

// NewTable returns an empty table with room for n endpoints.
func NewTable(n int) Table {
	return Table{Forward: make(map[MAC]netip.Addr, n), Neighbours: make(map[netip.Addr]MAC, n)}
}

// Add adds an endpoint, which needs at least one address. Its hardware address derives from the
// first one.
func (t Table) Add(host netip.Addr, addresses ...netip.Addr) {
	mac := MACOf(addresses[0])
	t.Forward[mac] = host
	for _, a := range addresses {
		t.Neighbours[a] = mac
	}
}

// Remove undoes Add.
func (t Table) Remove(addresses ...netip.Addr) {
	delete(t.Forward, MACOf(addresses[0]))
	for _, a := range addresses {
		delete(t.Neighbours, a)
	}
}

// Entries is a handle to the entries of one device.
type Entries struct {
	h     *netlink.Handle
	batch *batch
	index int
	// bridged says that the device is a port of a bridge. Each entry is then in the bridge's table
	// too.
	bridged bool
}

// Open returns a handle to the entries of the device with this index in the namespace ns. bridged
// says that the device is a port of a bridge.
func Open(ns *netns.Namespace, index int, bridged bool) (*Entries, error) {
	h, err := ns.Netlink()
	if err != nil {
		return nil, err
	}
	b, err := openBatch(ns)
	if err != nil {
		h.Close()
		return nil, err
	}
	return &Entries{h: h, batch: b, index: index, bridged: bridged}, nil
}

// Close closes the handle. The entries remain in the kernel.
func (e *Entries) Close() error {
	e.h.Close()
	return e.batch.close()
}

// Read returns the entries in the kernel. If an entry is in only one of the two forwarding tables,
// its host is the zero address, so that the next Write writes or deletes the entry.
func (e *Entries) Read() (Table, error) {
	t := NewTable(0)
	list, err := e.list(unix.AF_BRIDGE)
	if err != nil {
		return t, fmt.Errorf("read forwarding entries: %w", err)
	}
	onBridge := make(map[MAC]bool)
	for _, n := range list {
		mac, ok := macFrom(n.HardwareAddr)
		switch host, isAddr := netip.AddrFromSlice(n.IP); {
		case !ok:
		case n.MasterIndex != 0:
			// An entry of the bridge. The kernel names the bridge, and does not set NTF_MASTER in
			// its answer. Entries without NOARP are the device's own addresses.
			if n.State&netlink.NUD_NOARP != 0 {
				onBridge[mac] = true
			}
		case n.Flags&netlink.NTF_SELF != 0 && isAddr:
			t.Forward[mac] = host.Unmap()
		}
	}
	for mac := range t.Forward {
		if e.bridged && !onBridge[mac] {
			t.Forward[mac] = netip.Addr{}
		}
	}
	for mac := range onBridge {
		if _, ok := t.Forward[mac]; !ok {
			t.Forward[mac] = netip.Addr{}
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := e.list(family)
		if err != nil {
			return t, fmt.Errorf("read neighbour entries: %w", err)
		}
		for _, n := range list {
			mac, ok := macFrom(n.HardwareAddr)
			ip, isAddr := netip.AddrFromSlice(n.IP)
			if ok && isAddr && n.State == netlink.NUD_PERMANENT {
				t.Neighbours[ip.Unmap()] = mac
			}
		}
	}
	return t, nil
}

func (e *Entries) list(family int) ([]netlink.Neigh, error) {
	return hostnet.Complete(func() ([]netlink.Neigh, error) { return e.h.NeighList(e.index, family) })
}

func macFrom(hw net.HardwareAddr) (MAC, bool) {
	if len(hw) != 6 {
		return MAC{}, false
	}
	return MAC(hw), true
}

// Write changes the entries in the kernel from has to want, and no others. It writes new and
// changed entries before it deletes old ones. After an error only some of the changes may be in the
// kernel.
func (e *Entries) Write(has, want Table) error {
	for mac, host := range want.Forward {
		if old, ok := has.Forward[mac]; !ok || old != host {
			e.forward(mac, host)
		}
	}
	for addr, mac := range want.Neighbours {
		if old, ok := has.Neighbours[addr]; !ok || old != mac {
			e.neighbour(addr, mac)
		}
	}
	for addr := range has.Neighbours {
		if _, ok := want.Neighbours[addr]; !ok {
			e.deleteNeighbour(addr)
		}
	}
	for mac := range has.Forward {
		if _, ok := want.Forward[mac]; !ok {
			e.stopForwarding(mac)
		}
	}
	if err := e.batch.flush(); err != nil {
		return fmt.Errorf("write forwarding and neighbour entries: %w", err)
	}
	return nil
}

const (
	create = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	// static is a state for which both the VXLAN device and the bridge never expire an entry. With
	// PERMANENT the bridge would treat the address as its own.
	static = netlink.NUD_NOARP | netlink.NUD_REACHABLE
)

func (e *Entries) forward(mac MAC, host netip.Addr) {
	flags := uint8(netlink.NTF_SELF)
	if e.bridged {
		flags |= netlink.NTF_MASTER
	}
	m := netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(e.index), State: static, Flags: flags}
	e.batch.add(unix.RTM_NEWNEIGH, create, 0, &m, attribute{netlink.NDA_DST, host.AsSlice()}, attribute{netlink.NDA_LLADDR, mac[:]})
}

// stopForwarding sends one request for each table. One request for both would delete nothing if the
// first table did not have the entry.
func (e *Entries) stopForwarding(mac MAC) {
	for _, flags := range []uint8{netlink.NTF_SELF, netlink.NTF_MASTER} {
		if flags == netlink.NTF_MASTER && !e.bridged {
			continue
		}
		m := netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(e.index), State: static, Flags: flags}
		e.batch.add(unix.RTM_DELNEIGH, 0, unix.ENOENT, &m, attribute{netlink.NDA_LLADDR, mac[:]})
	}
}

func (e *Entries) neighbour(addr netip.Addr, mac MAC) {
	m := netlink.Ndmsg{Family: family(addr), Index: uint32(e.index), State: netlink.NUD_PERMANENT}
	e.batch.add(unix.RTM_NEWNEIGH, create, 0, &m, attribute{netlink.NDA_DST, addr.AsSlice()}, attribute{netlink.NDA_LLADDR, mac[:]})
}

func (e *Entries) deleteNeighbour(addr netip.Addr) {
	m := netlink.Ndmsg{Family: family(addr), Index: uint32(e.index)}
	e.batch.add(unix.RTM_DELNEIGH, 0, unix.ENOENT, &m, attribute{netlink.NDA_DST, addr.AsSlice()})
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Pin adds a static entry for a hardware address of this host at a port of the bridge, so that the
// bridge need not learn it.
func (e *Entries) Pin(port int, mac MAC) error {
	m := netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(port), State: static, Flags: netlink.NTF_MASTER}
	e.batch.add(unix.RTM_NEWNEIGH, create, 0, &m, attribute{netlink.NDA_LLADDR, mac[:]})
	return e.batch.flush()
}

package node

import (
	"fmt"
	"net/netip"
	"slices"
)

// anyInterface is the name for all interfaces of a host that has only one address.
const anyInterface = "*"

// interfaceOf returns the name of the interface that has addr. It returns anyInterface if the
// operator gave no host, and "" if no interface has the address, because NAT forwards it to this
// host.
func interfaceOf(given, addr string, all map[string][]netip.Addr) string {
	if host, _, err := splitPort(given, DefaultPort); err == nil && host == "" {
		return anyInterface
	}
	at, err := netip.ParseAddr(addr)
	if err != nil {
		return ""
	}
	for name, on := range all {
		if slices.Contains(on, at) {
			return name
		}
	}
	return ""
}

// updateAddresses replaces an address that this host no longer has, for example after a new DHCP
// lease. The managers learn the new address with the node's next session. An address that no
// interface had is kept, because NAT forwards it to this host. An address is also kept if the host
// has no replacement for it, or several.
func (n *Node) updateAddresses(m *Membership) error {
	all, err := n.addrs()
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	before := *m
	m.Addr = n.currentAddress(m.Addr, m.AddrOf, all)
	switch {
	case m.DataPathOf != "":
		m.DataPathAddr = n.currentAddress(m.DataPathAddr, m.DataPathOf, all)
	case m.DataPathAddr == before.Addr:
		m.DataPathAddr = m.Addr
	}
	if m.Addr == before.Addr && m.DataPathAddr == before.DataPathAddr {
		return nil
	}
	if m.ListenAddr == before.Addr {
		m.ListenAddr = m.Addr
	}
	for i := range m.Managers {
		if m.Managers[i].NodeID == m.NodeID {
			m.Managers[i].Addr = m.Addr
		}
	}
	n.deps.Log.Info("the address of this host changed: the managers learn it with the next session", "addr", m.Addr, "before", before.Addr, "data_path_addr", m.DataPathAddr)
	return n.disk.save(m)
}

// currentAddress returns the address to use in place of addr. It returns addr if the host still has
// this address, and else the address that the interface with the name iface has now.
func (n *Node) currentAddress(addr, iface string, all map[string][]netip.Addr) string {
	at, err := netip.ParseAddr(addr)
	if iface == "" || err != nil || at.IsLoopback() {
		return addr
	}
	for _, on := range all {
		if slices.Contains(on, at) {
			return addr
		}
	}
	if iface != anyInterface {
		all = map[string][]netip.Addr{iface: all[iface]}
	}
	now, _, err := onlyAddress(all, 0)
	if err != nil {
		n.deps.Log.Error("this host no longer has the address at which other nodes reach it: give it back and restart the daemon, or run `swarm leave` and join again", "addr", addr, "err", err)
		return addr
	}
	return now
}

package node

import (
	"fmt"
	"net/netip"
	"slices"
)

// anyInterface stands for the only address that a host has.
const anyInterface = "*"

// interfaceOf says on which interface an address is that a node was given, or chose; empty: on none, it leads here by NAT.
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

// move takes another address for a node whose host no longer has the one that it had when it last ran, after a new lease of
// DHCP for one. The managers take the address over with its next session. An address that no interface had stays, because it
// leads here by NAT, and so does one in whose place there is none, or more than one to choose from.
func (n *Node) move(m *Membership) error {
	all, err := n.addrs()
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	before := *m
	m.Addr = n.moved(m.Addr, m.AddrOf, all)
	switch {
	case m.DataPathOf != "":
		m.DataPathAddr = n.moved(m.DataPathAddr, m.DataPathOf, all)
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
	n.deps.Log.Info("this host has another address than before", "addr", m.Addr, "before", before.Addr, "data_path_addr", m.DataPathAddr)
	return n.disk.save(m)
}

// moved is the address to use in place of one that was taken from an interface: the same as long as the host has it.
func (n *Node) moved(addr, of string, all map[string][]netip.Addr) string {
	at, err := netip.ParseAddr(addr)
	if of == "" || err != nil || at.IsLoopback() {
		return addr
	}
	for _, on := range all {
		if slices.Contains(on, at) {
			return addr
		}
	}
	if of != anyInterface {
		all = map[string][]netip.Addr{of: all[of]}
	}
	now, _, err := choose(all, 0)
	if err != nil {
		n.deps.Log.Error("this host no longer has the address at which other nodes reach it: give it back and restart the daemon, or run `swarm leave` and join again", "addr", addr, "err", err)
		return addr
	}
	return now
}

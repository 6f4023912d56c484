//go:build linux

package bridge

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
)

// deleteUDPFlows deletes the conntrack entries of flows to published UDP ports. UDP has no
// handshake, so an entry would send the client's packets to the former task for as long as the
// client sends.
func deleteUDPFlows(ports []Port) error {
	var f udpFlows
	for _, p := range ports {
		if p.Protocol == "udp" {
			f = append(f, p.Published)
		}
	}
	if len(f) == 0 {
		return nil
	}
	var errs []error
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := hostnet.Complete(func() (uint, error) { return netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, f) }); err != nil {
			errs = append(errs, fmt.Errorf("delete conntrack entries of UDP ports: %w", err))
		}
	}
	return errors.Join(errs...)
}

// udpFlows matches UDP flows to these ports.
type udpFlows []uint16

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f udpFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	for _, port := range f {
		if flow.Forward.Protocol == unix.IPPROTO_UDP && flow.Forward.DstPort == port {
			return true
		}
	}
	return false
}

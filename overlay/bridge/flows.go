//go:build linux

package bridge

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
)

// forgetUDP drops the tracked flows to published UDP ports: without a handshake,
// an old flow would go where it went before for as long as its client talks.
func forgetUDP(ports []Port) error {
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
			errs = append(errs, fmt.Errorf("forget flows to UDP ports: %w", err))
		}
	}
	return errors.Join(errs...)
}

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

//go:build linux

// Package vxlan makes VXLAN devices that learn nothing, and keeps their static entries.
//
// It owns the shape of such a device (Spec) and of its Table: where the frames for a
// hardware address go, and which hardware address an IP address has, so that the
// device answers ARP and neighbour solicitations by itself and floods nothing. It
// keeps no state: Read tells what the kernel has, Write brings it from one table to
// another. Callers: overlay/fabric, overlay/mesh. No goroutines.
package vxlan

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/internal/pause"
	"swarm/overlay/netns"
)

const (
	// OverheadIPv4 and OverheadIPv6 are what encapsulation takes from the underlay's MTU:
	// outer IP, UDP and VXLAN headers and the inner Ethernet header.
	OverheadIPv4 = 50
	OverheadIPv6 = 70
)

// busyFor bounds the wait for a network identifier that a dying namespace still holds.
const busyFor = 3 * time.Second

// Spec of a device.
type Spec struct {
	Name string
	// VNI is the network identifier, 24 bits.
	VNI uint32
	// Port is the UDP port of all hosts.
	Port uint16
	// Local is the source of packets. Unspecified: the kernel chooses; it still says which family the underlay has.
	Local netip.Addr
	MTU   int
	// Group marks the device, so that it can be deleted together with others.
	Group uint32
}

// Make creates the device in namespace in. Its UDP socket is in the namespace of
// underlay, where the packets travel.
func Make(ctx context.Context, underlay *netlink.Handle, in *netns.Namespace, s Spec) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Group, attrs.Namespace = s.Name, s.MTU, s.Group, netlink.NsFd(in.FD())
	device := &netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: int(s.VNI), SrcAddr: s.Local.AsSlice(), Port: int(s.Port), Proxy: true, NoAge: true,
	}
	ctx, cancel := context.WithTimeout(ctx, busyFor)
	defer cancel()
	for {
		err := underlay.LinkAdd(device)
		if !errors.Is(err, unix.EEXIST) {
			if errors.Is(err, unix.EOPNOTSUPP) {
				return fmt.Errorf("this kernel makes no vxlan devices: load its module vxlan, or install the package with the kernel's extra modules: %w", err)
			}
			if err != nil {
				return fmt.Errorf("vxlan device of network identifier %d: %w", s.VNI, err)
			}
			return nil
		}
		if pause.For(ctx, 5*time.Millisecond) != nil {
			return fmt.Errorf("vxlan network identifier %d on UDP port %d is in use on this host by a device that is not swarm's: remove it, or use another port: %w",
				s.VNI, s.Port, err)
		}
	}
}

// Is reports whether a device is as the spec says, its MTU and place apart.
func (s Spec) Is(link netlink.Link) bool {
	v, ok := link.(*netlink.Vxlan)
	if !ok || v.VxlanId != int(s.VNI) || v.Port != int(s.Port) || !v.Proxy || v.Learning {
		return false
	}
	if s.Local.IsUnspecified() {
		return v.SrcAddr == nil || v.SrcAddr.IsUnspecified()
	}
	return v.SrcAddr.Equal(s.Local.AsSlice())
}

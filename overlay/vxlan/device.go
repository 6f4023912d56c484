//go:build linux

// Package vxlan creates VXLAN devices with learning turned off, and manages their static entries.
//
// Spec describes a device. Table describes its entries: the host to which the frames for a hardware
// address go, and the hardware address of each IP address. With these entries the device answers
// ARP requests and neighbour solicitations itself, and floods no frames.
//
// The package keeps no state: Read returns the entries in the kernel, and Write changes them from
// one table to another. Its caller is overlay/fabric. It starts no goroutines.
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
	// OverheadIPv4 and OverheadIPv6 are the bytes by which the MTU of the device is smaller than
	// the MTU of the underlay: the outer IP, UDP and VXLAN headers and the inner Ethernet header.
	OverheadIPv4 = 50
	OverheadIPv6 = 70
)

// vniReleaseTimeout limits the wait for a network identifier that is still in use by a namespace
// which the kernel is deleting.
const vniReleaseTimeout = 3 * time.Second

// Spec describes a VXLAN device.
type Spec struct {
	Name string
	// VNI is the VXLAN network identifier, 24 bits.
	VNI uint32
	// Port is the UDP port. It must be the same on all hosts.
	Port uint16
	// Local is the source address of the VXLAN packets. If it is 0.0.0.0 or ::, the kernel chooses
	// the source; the family of Local is the family of the underlay in any case.
	Local netip.Addr
	// MTU is the MTU of the device in bytes.
	MTU int
	// Group is the link group. One request can delete all devices of a group.
	Group uint32
}

// Make creates the device in the namespace in. The UDP socket of the device is in the namespace of
// underlay, where the VXLAN packets travel. If the network identifier is in use, Make tries again
// for up to three seconds.
func Make(ctx context.Context, underlay *netlink.Handle, in *netns.Namespace, s Spec) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Group, attrs.Namespace = s.Name, s.MTU, s.Group, netlink.NsFd(in.FD())
	device := &netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: int(s.VNI), SrcAddr: s.Local.AsSlice(), Port: int(s.Port), Proxy: true, NoAge: true,
	}
	ctx, cancel := context.WithTimeout(ctx, vniReleaseTimeout)
	defer cancel()
	for {
		err := underlay.LinkAdd(device)
		if !errors.Is(err, unix.EEXIST) {
			if errors.Is(err, unix.EOPNOTSUPP) {
				return fmt.Errorf("this kernel cannot create vxlan devices: load its module vxlan, or install the package with the kernel's extra modules: %w", err)
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

// Is reports whether a device matches the spec. It does not compare name, MTU, group and namespace.
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

//go:build linux

package hostnet_test

import (
	"errors"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

// Without a default route the interfaces that carry addresses count. Those of ours are smaller,
// because of them.
func TestWayOutMTU_LeavesOursOut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	got := 0
	if err := netns.Thread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		for name, mtu := range map[string]int{"eth7": 1480, "eth8": 1490, "swmesh": 1430} {
			link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu}}
			addr := map[string]string{"eth7": "192.0.2.1/24", "eth8": "198.51.100.1/24", "swmesh": "10.0.0.5/24"}[name]
			a, err := netlink.ParseAddr(addr)
			if err != nil {
				return err
			}
			if err := errors.Join(h.LinkAdd(link), h.LinkSetMTU(link, mtu), h.AddrAdd(link, a), h.LinkSetUp(link)); err != nil {
				return err
			}
			if name == "swmesh" {
				if err := h.LinkSetAlias(link, "swarm; ip_forward was 0"); err != nil {
					return err
				}
			}
		}
		got, err = hostnet.WayOutMTU(h)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if got != 1480 {
		t.Errorf("got %d, want 1480", got)
	}
}

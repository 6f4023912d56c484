//go:build linux

package hostnet_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

// inHost runs fn in a network namespace of its own, with devices eth7, which has the default route,
// eth8, and swmesh.
func inHost(t *testing.T, fn func(h *netlink.Handle, add func(device, addr string) error) error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	err := netns.Thread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		links := map[string]netlink.Link{}
		for _, name := range []string{"eth7", "eth8", "swmesh"} {
			links[name] = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
			if err := errors.Join(h.LinkAdd(links[name]), h.LinkSetUp(links[name])); err != nil {
				return err
			}
		}
		return fn(h, func(device, addr string) error {
			a, err := netlink.ParseAddr(addr)
			if err != nil {
				return err
			}
			a.Flags = unix.IFA_F_NODAD
			return h.AddrAdd(links[device], a)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A caller who keeps only some addresses keeps those that lead away.
func TestAddresses_OfTheDefaultRouteComeFirst(t *testing.T) {
	inHost(t, func(h *netlink.Handle, add func(device, addr string) error) error {
		var errs []error
		for i := range 40 {
			errs = append(errs, add("eth8", fmt.Sprintf("10.0.8.%d/24", i+1)))
		}
		errs = append(errs,
			add("eth7", "192.0.2.7/24"), add("eth7", "2001:db8::7/64"), add("eth8", "169.254.7.7/16"), add("swmesh", "10.0.0.9/24"),
			h.RouteAdd(&netlink.Route{Gw: netip.MustParseAddr("192.0.2.1").AsSlice()}))
		if err := errors.Join(errs...); err != nil {
			return err
		}
		got, err := hostnet.Addresses("swmesh")
		if err != nil {
			return err
		}
		want := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}
		if len(got) < 2 || !slices.Equal(got[:2], want) {
			t.Errorf("got %v, want %v first", got, want)
		}
		if !slices.Contains(got, netip.MustParseAddr("169.254.7.7")) || len(got) != 43 || slices.Contains(got, netip.MustParseAddr("10.0.0.9")) {
			t.Errorf("got %d addresses, want the 43 of eth7 and eth8: %v", len(got), got)
		}
		return nil
	})
}

func TestWatch_TellsOfAddressesAddedLater(t *testing.T) {
	inHost(t, func(_ *netlink.Handle, add func(device, addr string) error) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		rounds := 0
		err := hostnet.Watch(ctx, hostnet.AddressNotices(), time.Millisecond, func(context.Context) {
			var err error
			switch rounds++; rounds {
			case 1:
				err = add("eth8", "10.0.8.1/24")
			case 2:
				err = add("eth8", "2001:db8::8/64")
			default:
				cancel()
			}
			if err != nil {
				t.Error(err)
				cancel()
			}
		})
		if rounds != 3 {
			t.Errorf("checked %d times, want at the start and after each of two addresses", rounds)
		}
		return err
	})
}

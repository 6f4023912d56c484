//go:build linux

package hostnet_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

func TestWatch_TellsOfWhatComesLater(t *testing.T) {
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
		device := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth8"}}
		if err := errors.Join(h.LinkAdd(device), h.LinkSetUp(device)); err != nil {
			return err
		}
		add := func(addr string) {
			a, err := netlink.ParseAddr(addr)
			if err == nil {
				a.Flags = unix.IFA_F_NODAD
				err = h.AddrAdd(device, a)
			}
			if err != nil {
				t.Error(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		addresses := hostnet.Notices{
			Of: "addresses", Protocol: unix.NETLINK_ROUTE,
			Groups: 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1),
		}
		rounds := 0
		err = hostnet.Watch(ctx, addresses, time.Millisecond, func(context.Context) {
			switch rounds++; rounds {
			case 1:
				add("10.0.8.1/24")
			case 2:
				add("2001:db8::8/64")
			default:
				cancel()
			}
		})
		if rounds != 3 {
			t.Errorf("checked %d times, want at the start and after each of two addresses", rounds)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

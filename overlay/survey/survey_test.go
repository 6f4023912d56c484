//go:build linux

package survey

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/netns"
	"swarm/overlay/nft"
)

func TestKernel_LeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	features, err := Kernel()
	if err != nil || len(features) != 4 {
		t.Fatalf("got %v, %v", features, err)
	}
	for _, f := range features {
		if f.Err != nil {
			t.Errorf("%s: %v", f.Name, f.Err)
		}
	}
}

func TestReadFirewall(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	var got, bare, served Firewall
	accepts := nft.Accepts{Interface: "swarm0", Tag: "swarm-test"}
	if err := netns.Thread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
		for name, hook := range map[string]*nftables.ChainHook{
			"FORWARD": nftables.ChainHookForward, "INPUT": nftables.ChainHookInput, "OUTPUT": nftables.ChainHookOutput,
		} {
			drop := nftables.ChainPolicyDrop
			c.AddChain(&nftables.Chain{
				Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook,
				Priority: nftables.ChainPriorityFilter, Policy: &drop,
			})
		}
		c.AddChain(&nftables.Chain{Name: "harmless", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		strict := c.AddTable(&nftables.Table{Name: "strict", Family: nftables.TableFamilyINet})
		fwd := c.AddChain(&nftables.Chain{Name: "fwd", Table: strict, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		c.AddRule(&nftables.Rule{Table: strict, Chain: fwd, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
		if err := c.Flush(); err != nil {
			return err
		}
		if got, err = ReadFirewall(accepts); err != nil {
			return err
		}
		// Create the device, as if another program had then written the firewall anew: the accept
		// rules are missing. Then add them.
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: accepts.Interface}}); err != nil {
			return err
		}
		if bare, err = ReadFirewall(accepts); err != nil {
			return err
		}
		var conn nft.Conn
		accepts.Ensure(&conn, slog.New(slog.DiscardHandler))
		served, err = ReadFirewall(accepts)
		return errors.Join(err, conn.Close())
	}); err != nil {
		t.Fatal(err)
	}
	want := Firewall{ForwardDrop: []string{"ip filter FORWARD", "inet strict fwd"}, InputDrop: []string{"ip filter INPUT"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	want.Devices = []Device{{Name: "swarm0", Dropped: want.ForwardDrop}}
	if diff := cmp.Diff(want, bare); diff != "" {
		t.Errorf("without our rules: -want +got:\n%s", diff)
	}
	want.Devices[0].Dropped = nil
	if diff := cmp.Diff(want, served); diff != "" {
		t.Errorf("with our rules: -want +got:\n%s", diff)
	}
}

func TestRanges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	var got []Range
	if err := netns.Thread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth7"}}
		if err := errors.Join(netlink.LinkAdd(br), netlink.LinkSetUp(br)); err != nil {
			return err
		}
		addr, err := netlink.ParseAddr("192.0.2.5/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(br, addr); err != nil {
			return err
		}
		_, via, _ := net.ParseCIDR("10.9.0.0/16")
		_, nowhere, _ := net.ParseCIDR("10.8.0.0/16")
		_, all, _ := net.ParseCIDR("0.0.0.0/0")
		gw := net.IPv4(192, 0, 2, 1)
		for _, r := range []netlink.Route{{Dst: via, Gw: gw}, {Dst: nowhere, Type: unix.RTN_BLACKHOLE}, {Dst: all, Gw: gw}} {
			if err := netlink.RouteAdd(&r); err != nil {
				return err
			}
		}
		got, err = Ranges()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	got = slices.DeleteFunc(got, func(r Range) bool { return r.Prefix.Addr().Is6() })
	want := []Range{
		{netip.MustParsePrefix("192.0.2.0/24"), "eth7"}, {netip.MustParsePrefix("10.9.0.0/16"), "eth7"}, {netip.MustParsePrefix("10.8.0.0/16"), ""},
	}
	byPrefix := func(a, b Range) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) }
	slices.SortFunc(got, byPrefix)
	slices.SortFunc(want, byPrefix)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

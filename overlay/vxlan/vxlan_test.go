//go:build linux

package vxlan

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/netns"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func newNamespace(t *testing.T) (*netns.Namespace, *netlink.Handle) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ns")
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(path); err != nil {
			t.Error(err)
		}
	})
	ns, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	h, err := ns.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return ns, h
}

func spec(vni uint32) Spec {
	return Spec{Name: fmt.Sprintf("vx%d", vni), VNI: vni, Port: 4789, Local: addr("0.0.0.0"), MTU: 1450, Group: 7}
}

// device makes a VXLAN device which is a port of a bridge or stands alone. It returns the device
// and its entries.
func device(t *testing.T, bridged bool) (*Entries, netlink.Link, *netlink.Handle) {
	t.Helper()
	_, underlay := newNamespace(t)
	ns, h := newNamespace(t)
	if err := Make(t.Context(), underlay, ns, spec(100)); err != nil {
		t.Fatal(err)
	}
	link, err := h.LinkByName("vx100")
	if err != nil {
		t.Fatal(err)
	}
	if bridged {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br0"
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		if err := h.LinkAdd(bridge); err != nil {
			t.Fatal(err)
		}
		if err := h.LinkSetMaster(link, bridge); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	e, err := Open(ns, link.Attrs().Index, bridged)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e, link, h
}

func write(t *testing.T, e *Entries, has, want Table) {
	t.Helper()
	if err := e.Write(has, want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, read(t, e), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("entries in the kernel (-want +got):\n%s", diff)
	}
}

func read(t *testing.T, e *Entries) Table {
	t.Helper()
	got, err := e.Read()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestMake_IsWhatWasAskedFor(t *testing.T) {
	_, link, _ := device(t, false)
	if !spec(100).Is(link) || link.Attrs().MTU != 1450 || link.Attrs().Group != 7 {
		t.Errorf("got %+v", link)
	}
	for name, other := range map[string]func(*Spec){
		"identifier":    func(s *Spec) { s.VNI = 101 },
		"port":          func(s *Spec) { s.Port = 4790 },
		"local address": func(s *Spec) { s.Local = addr("192.0.2.1") },
	} {
		s := spec(100)
		if other(&s); s.Is(link) {
			t.Errorf("a device with another %s counts as the same", name)
		}
	}
}

// The identifier belongs to another device, and stays so.
func TestMake_IdentifierInUse(t *testing.T) {
	ns, underlay := newNamespace(t)
	if err := Make(t.Context(), underlay, ns, spec(100)); err != nil {
		t.Fatal(err)
	}
	other := spec(100)
	other.Name = "other"
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := Make(ctx, underlay, ns, other)
	if err == nil || !strings.Contains(err.Error(), "vxlan network identifier 100 on UDP port 4789 is in use on this host") {
		t.Errorf("got %v", err)
	}
}

func TestEntries_WriteAndRead(t *testing.T) {
	for _, bridged := range []bool{false, true} {
		t.Run(fmt.Sprintf("bridged=%v", bridged), func(t *testing.T) {
			e, _, _ := device(t, bridged)
			first := NewTable(3)
			first.Add(addr("192.0.2.1"), addr("10.0.1.3"), addr("fd00::3"))
			first.Add(addr("192.0.2.2"), addr("10.0.1.4"))
			write(t, e, NewTable(0), first)
			// One endpoint moves, one goes, one comes.
			second := NewTable(2)
			second.Add(addr("192.0.2.9"), addr("10.0.1.3"), addr("fd00::3"))
			second.Add(addr("192.0.2.2"), addr("10.0.1.5"))
			write(t, e, first, second)
			write(t, e, second, NewTable(0))
			if err := e.Write(second, NewTable(0)); err != nil {
				t.Errorf("delete entries that are gone: %v", err)
			}
		})
	}
}

// The batches of thousands of entries do not fit one message.
func TestEntries_Many(t *testing.T) {
	e, _, _ := device(t, true)
	want := NewTable(3000)
	for i := range 3000 {
		want.Add(addr("192.0.2.1"), netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	write(t, e, NewTable(0), want)
	write(t, e, want, NewTable(0))
}

// An entry which is in one of the two tables only is read with the zero address, so that the next
// Write completes it.
func TestEntries_HalfAnEntryIsRepaired(t *testing.T) {
	e, link, h := device(t, true)
	want := NewTable(1)
	want.Add(addr("192.0.2.1"), addr("10.0.1.3"))
	write(t, e, NewTable(0), want)
	mac := MACOf(addr("10.0.1.3"))
	for _, flag := range []int{netlink.NTF_SELF, netlink.NTF_MASTER} {
		if err := h.NeighDel(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, Flags: flag, IP: net.IPv4(192, 0, 2, 1), HardwareAddr: mac[:]}); err != nil {
			t.Fatal(err)
		}
		half := read(t, e)
		if host, ok := half.Forward[mac]; !ok || host.IsValid() {
			t.Errorf("without the entry of table %d: got host %s, %v, want the zero address", flag, host, ok)
		}
		write(t, e, half, want)
	}
}

// The error of one request does not hide behind the success of the others.
func TestEntries_WriteFails(t *testing.T) {
	e, link, h := device(t, false)
	if err := h.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	want := NewTable(1)
	want.Add(addr("192.0.2.1"), addr("10.0.1.3"))
	if err := e.Write(NewTable(0), want); err == nil || !strings.Contains(err.Error(), "write forwarding and neighbour entries") {
		t.Errorf("the device is gone: got %v", err)
	}
	if err := e.Write(want, NewTable(0)); err == nil {
		t.Error("the device is gone, and deleting its entries succeeds")
	}
}

func TestMACOf(t *testing.T) {
	for a, want := range map[string]string{"10.0.1.3": "02:42:0a:00:01:03", "fd00::1:2": "02:46:00:01:00:02"} {
		if got := MACOf(addr(a)).String(); got != want {
			t.Errorf("%s: got %s, want %s", a, got, want)
		}
	}
}

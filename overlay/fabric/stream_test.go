//go:build linux

package fabric_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

	"swarm/overlay/fabric"
	"swarm/overlay/netns"
	"swarm/overlay/vxlan"
)

// BenchmarkStream sends over one TCP connection between two hosts: through the overlay network, and
// through a VXLAN device in the namespace of the container, without cable and bridge.
func BenchmarkStream(b *testing.B) {
	w := newWorld(b, settings{hosts: 2})
	x, y := w.hosts[0].start("x", red, "10.0.1.2/24"), w.hosts[1].start("y", red, "10.0.1.3/24")
	w.sync("red", x, y)
	bareX, bareY := w.bare(0, "10.0.2.2"), w.bare(1, "10.0.2.3")
	for i := range 7 {
		b.Run(fmt.Sprint("bare", i), func(b *testing.B) { stream(b, bareX, bareY, "10.0.2.3") })
		b.Run(fmt.Sprint("overlay", i), func(b *testing.B) { stream(b, x, y, "10.0.1.3") })
	}
}

// bare returns a container on host i that has only a VXLAN device.
func (w *world) bare(i int, addr string) *task {
	w.t.Helper()
	h, other := w.hosts[i], w.hosts[1-i]
	pin := filepath.Join(w.dir, h.name, "bare")
	if err := netns.Create(pin); err != nil {
		w.t.Fatal(err)
	}
	ns, err := netns.Open(pin)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ns.Close()
		_ = netns.Delete(pin)
	})
	under, err := h.ns.Netlink()
	if err != nil {
		w.t.Fatal(err)
	}
	defer under.Close()
	mtu := 1350
	err = vxlan.Make(w.t.Context(), under, ns, vxlan.Spec{Name: "vxlan", VNI: 99999, Port: 4789, Local: h.addr, MTU: mtu})
	if err != nil {
		w.t.Fatal(err)
	}
	peer := netip.MustParseAddr(map[string]string{"10.0.2.2": "10.0.2.3", "10.0.2.3": "10.0.2.2"}[addr])
	err = ns.Do(func() error {
		link, err := netlink.LinkByName("vxlan")
		if err != nil {
			return err
		}
		mac := vxlan.MACOf(netip.MustParseAddr(addr))
		if err := netlink.LinkSetHardwareAddr(link, mac[:]); err != nil {
			return err
		}
		a, err := netlink.ParseAddr(addr + "/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		e, err := vxlan.Open(ns, link.Attrs().Index, false)
		if err != nil {
			return err
		}
		defer e.Close()
		t := vxlan.NewTable(1)
		t.Add(other.addr, peer)
		return e.Write(vxlan.Table{}, t)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return &task{t: w.t, host: h, ns: ns, attachment: fabric.Attachment{TaskID: "bare"}}
}

func stream(b *testing.B, from, to *task, addr string) {
	const size = 1 << 20
	var l net.Listener
	if err := to.ns.Do(func() (err error) { l, err = net.Listen("tcp", ":5001"); return err }); err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, size))
		done <- err
	}()
	var c net.Conn
	if err := from.ns.Do(func() (err error) { c, err = net.Dial("tcp", addr+":5001"); return err }); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, size)
	b.SetBytes(size)
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
	if err := <-done; err != nil {
		b.Error(err)
	}
}

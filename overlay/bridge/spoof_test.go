//go:build linux

package bridge_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/bridge"
	"swarm/overlay/netns"
)

// A task with CAP_NET_RAW can write any frame. No frame misdirects the traffic of others or passes
// as another task's.
func TestSender_TaskSendsAsItselfAlone(t *testing.T) {
	w := newWorld(t)
	w.dual()
	inner, err := w.tryAttach(bridge.Attachment{TaskID: "inner", PortIsolated: true, NoEgress: true})
	if err != nil {
		t.Fatal(err)
	}
	plain, victim := w.attach("plain"), w.attach("victim", bridge.Port{Published: 8080, Target: 80})
	w.serve(victim, "victim", 80)
	w.spoof(inner, plain, victim)

	// The same holds after a restart of the daemon and after another program has flushed the rules.
	w.restart()
	w.do(func() error {
		return w.b.Restore(t.Context(), []bridge.Existing{
			{Attachment: bridge.Attachment{TaskID: "inner", PortIsolated: true, NoEgress: true}, Result: inner},
			{Attachment: bridge.Attachment{TaskID: "plain"}, Result: plain},
			{Attachment: bridge.Attachment{TaskID: "victim", Ports: victim.Ports}, Result: victim},
		})
	})
	w.spoof(inner, plain, victim)
	w.do(flushRules)
	w.do(func() error { return w.b.Check(t.Context()) })
	w.spoof(inner, plain, victim)
}

// spoof sends all kinds of frames with addresses of others.
func (w *world) spoof(inner, plain, victim bridge.Result) {
	w.t.Helper()
	wantAnswer(w.t, "the host, IPv6", w.host, "["+victim.Address6.Addr().String()+"]:80", "victim "+plain.Gateway6.String())
	gateway, client := hardware("02:53:ac:1e:00:01"), netip.MustParseAddr(clientAddr)
	free, free6 := netip.MustParseAddr("172.30.200.200"), netip.MustParseAddr("fd53:5741:524d::c8c8")
	host6 := plain.Gateway6
	own, own6 := plain.Address.Addr(), plain.Address6.Addr()
	mac := hardware(plain.MAC)
	wantAnswer(w.t, "before", w.client, hostAddr+":8080", "victim "+clientAddr)

	// If the bridge learned from these frames, it would send the victim's frames to the task.
	w.send(plain, frame(hardware("01:80:c2:00:00:0e"), hardware(victim.MAC), ipPacket(own, client, unix.IPPROTO_UDP, datagram("learn"))))
	wantAnswer(w.t, "after frames for bridges", w.client, hostAddr+":8080", "victim "+clientAddr)
	atClient, atHost := w.hear(w.client), w.hear(w.host)
	send := func(from bridge.Result, frames ...[]byte) { w.send(from, frames...) }
	udp := func(src, dst netip.Addr, mark string) []byte {
		return ipPacket(src, dst, unix.IPPROTO_UDP, datagram(mark))
	}
	send(plain,
		frame(gateway, mac, udp(free, client, "free source")),
		frame(gateway, mac, udp(victim.Address.Addr(), client, "source of another")),
		frame(gateway, hardware(victim.MAC), udp(victim.Address.Addr(), client, "source and hardware of another")),
		frame(gateway, hardware(victim.MAC), udp(own, client, "hardware of another")),
		frame(gateway, mac, udp(client, plain.Gateway, "source of a node")),
		frame(gateway, mac, udp(free6, host6, "free source, IPv6")),
		// The host would receive these on the cable itself.
		frame(hardware("01:80:c2:00:00:0e"), mac, udp(own, plain.Gateway, "to bridges")),
		frame(hardware("01:80:c2:00:00:00"), mac, udp(own6, host6, "to bridges, spanning tree")),
		frame(hardware("01:80:c2:00:00:03"), mac, udp(own6, host6, "to bridges, 802.1X")),
		frame(hardware("01:80:c2:00:00:0e"), mac, udp(own6, host6, "to bridges, IPv6")),
		// The host removes the tag of VLAN 0 and handles the packet inside.
		tagged(0x8100, 0, frame(gateway, mac, udp(own, client, "with a VLAN tag"))),
		tagged(0x88a8, 0, frame(gateway, mac, udp(own, client, "with a service VLAN tag"))),
		tagged(0x8100, 0, frame(gateway, mac, udp(own6, host6, "with a VLAN tag, IPv6"))),
		frame(gateway, mac, udp(own, client, "plain good")),
		frame(gateway, mac, udp(own6, host6, "host good, IPv6")),
	)
	send(inner,
		frame(gateway, hardware(inner.MAC), udp(free, client, "inner, free source")),
		frame(gateway, hardware(inner.MAC), udp(inner.Address.Addr(), client, "inner, own source")),
		// TCP without flags belongs to no connection.
		frame(gateway, hardware(inner.MAC), ipPacket(inner.Address.Addr(), client, unix.IPPROTO_TCP, segment("inner, no flags"))),
	)
	send(plain, frame(gateway, mac, ipPacket(own, client, unix.IPPROTO_TCP, segment("plain, no flags"))))
	atClient("client", "plain good")
	atHost("host", "host good, IPv6")

	// False answers about the owner of another's address.
	var lies [][]byte
	for _, src := range []net.HardwareAddr{mac, hardware(victim.MAC)} {
		lies = append(lies,
			arp(src, mac, victim.Address.Addr()),
			frame(gateway, src, ipPacket(victim.Address6.Addr(), host6, unix.IPPROTO_ICMPV6, advertisement(victim.Address6.Addr(), mac))),
			frame(gateway, src, ipPacket(own6, host6, unix.IPPROTO_ICMPV6, advertisement(victim.Address6.Addr(), mac))),
		)
	}
	lies = append(lies, arp(mac, mac, free), arp(mac, hardware(victim.MAC), own))
	for range 15 { // the kernel believes no news for a second
		send(plain, lies...)
		<-time.After(100 * time.Millisecond) // The interval of the lies.
	}
	for addr, want := range map[netip.Addr]string{
		victim.Address.Addr(): victim.MAC, victim.Address6.Addr(): victim.MAC, own: plain.MAC, free: "",
	} {
		if got := w.neighbour(addr); got != want && got != "" {
			w.t.Errorf("the host takes %s for %s, want %q", addr, got, want)
		}
	}
	wantAnswer(w.t, "after", w.client, hostAddr+":8080", "victim "+clientAddr)
	wantAnswer(w.t, "a task to another", w.in(plain), victim.Address.Addr().String()+":80", "victim "+own.String())
	wantAnswer(w.t, "a task to another, IPv6", w.in(plain), "["+victim.Address6.Addr().String()+"]:80", "victim "+own6.String())
}

// tagged adds a VLAN tag of a type to a frame.
func tagged(kind, vlan uint16, frame []byte) []byte {
	const addresses = 12
	tag := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, kind), vlan)
	return slices.Concat(frame[:addresses], tag, frame[addresses:])
}

// hear records the packets with a mark that arrive in a namespace. The result fails the test unless
// want arrives and no other mark does.
func (w *world) hear(ns *netns.Namespace) func(what, want string) {
	w.t.Helper()
	heard := make(chan string, 100)
	for _, network := range []string{"ip4:udp", "ip6:udp", "ip4:tcp"} {
		var conn net.PacketConn
		if err := ns.Do(func() (err error) { conn, err = net.ListenPacket(network, ""); return err }); err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { conn.Close() })
		go func() {
			buf := make([]byte, 2000)
			for {
				n, _, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				if _, mark, ok := bytes.Cut(buf[:n], []byte("mark:")); ok {
					heard <- string(mark)
				}
			}
		}()
	}
	return func(what, want string) {
		w.t.Helper()
		var all []string
		late := time.After(10 * time.Second)
		for quiet := late; ; {
			select {
			case mark := <-heard:
				if mark != want {
					w.t.Errorf("the %s hears %q", what, mark)
				}
				all = append(all, mark)
				quiet = time.After(300 * time.Millisecond)
			case <-quiet:
				if !slices.Contains(all, want) {
					w.t.Errorf("the %s hears %q, want %q", what, all, want)
				}
				return
			}
		}
	}
}

// neighbour returns the hardware address to which the host sends packets for an address.
func (w *world) neighbour(addr netip.Addr) (mac string) {
	w.t.Helper()
	w.do(func() error {
		list, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		for _, n := range list {
			if n.IP.Equal(addr.AsSlice()) && n.HardwareAddr != nil {
				mac = n.HardwareAddr.String()
			}
		}
		return err
	})
	return mac
}

// send writes raw frames to a task's interface.
func (w *world) send(from bridge.Result, frames ...[]byte) {
	w.t.Helper()
	err := w.in(from).Do(func() error {
		link, err := netlink.LinkByName(from.Interface)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, f := range frames {
			if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func hardware(s string) net.HardwareAddr {
	mac, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return mac
}

func frame(dst, src net.HardwareAddr, packet []byte) []byte {
	number := []byte{0x08, 0x00}
	if packet[0]>>4 == 6 {
		number = []byte{0x86, 0xdd}
	}
	return slices.Concat(dst, src, number, packet)
}

// arp returns an unsolicited ARP answer to the broadcast address.
func arp(src, mac net.HardwareAddr, addr netip.Addr) []byte {
	all := hardware("ff:ff:ff:ff:ff:ff")
	return slices.Concat(all, src, []byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2}, mac, addr.AsSlice(), all, addr.AsSlice())
}

// advertisement returns a neighbour advertisement for addr at mac, with the flags solicited and
// override.
func advertisement(addr netip.Addr, mac net.HardwareAddr) []byte {
	return slices.Concat([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, addr.AsSlice(), []byte{2, 1}, mac)
}

func datagram(mark string) []byte {
	text := "mark:" + mark
	return slices.Concat([]byte{0x80, 0, 0, 9}, binary.BigEndian.AppendUint16(nil, uint16(8+len(text))), []byte{0, 0}, []byte(text))
}

// segment returns a TCP segment without flags.
func segment(mark string) []byte {
	return slices.Concat([]byte{0x80, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0, 0xff, 0xff, 0, 0, 0, 0}, []byte("mark:"+mark))
}

// ipPacket adds an IP header to a payload, and sets the checksums of both.
func ipPacket(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	at := map[byte]int{unix.IPPROTO_UDP: 6, unix.IPPROTO_TCP: 16, unix.IPPROTO_ICMPV6: 2}[protocol]
	pseudo := slices.Concat(src.AsSlice(), dst.AsSlice(), []byte{0, protocol}, binary.BigEndian.AppendUint16(nil, uint16(len(payload))))
	binary.BigEndian.PutUint16(payload[at:], checksum(append(pseudo, payload...)))
	if src.Is6() {
		header := slices.Concat([]byte{0x60, 0, 0, 0}, binary.BigEndian.AppendUint16(nil, uint16(len(payload))), []byte{protocol, 255})
		return slices.Concat(header, src.AsSlice(), dst.AsSlice(), payload)
	}
	header := slices.Concat([]byte{0x45, 0}, binary.BigEndian.AppendUint16(nil, uint16(20+len(payload))), []byte{0, 1, 0, 0, 64, protocol, 0, 0}, src.AsSlice(), dst.AsSlice())
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	return append(header, payload...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i%2))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

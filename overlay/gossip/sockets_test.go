//go:build linux

package gossip

import (
	"bytes"
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"
)

func listenOnLoopback(t *testing.T) *sockets {
	t.Helper()
	s, err := listen(netip.MustParseAddrPort("127.0.0.1:0"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestSockets_PacketTakesAsMuchAsItIsLong(t *testing.T) {
	a, b := listenOnLoopback(t), listenOnLoopback(t)
	for _, want := range [][]byte{[]byte("x"), bytes.Repeat([]byte("longer "), 1000), []byte("after")} {
		if _, err := a.WriteTo(want, b.udp.LocalAddr().String()); err != nil {
			t.Fatal(err)
		}
		p := <-b.PacketCh()
		if !bytes.Equal(p.Buf, want) || p.From.String() != a.udp.LocalAddr().String() {
			t.Errorf("got %d bytes from %s, want %d from %s", len(p.Buf), p.From, len(want), a.udp.LocalAddr())
		}
		if cap(p.Buf) > 2*len(want)+64 {
			t.Errorf("a packet of %d bytes takes %d", len(want), cap(p.Buf))
		}
	}
}

// A packet is not changed by later ones, although all are read into the same buffer.
func TestSockets_PacketIsNotOverwrittenByTheNext(t *testing.T) {
	a, b := listenOnLoopback(t), listenOnLoopback(t)
	for _, text := range []string{"first", "other"} {
		if _, err := a.WriteTo([]byte(text), b.udp.LocalAddr().String()); err != nil {
			t.Fatal(err)
		}
	}
	first, other := <-b.PacketCh(), <-b.PacketCh()
	if string(first.Buf) != "first" || string(other.Buf) != "other" {
		t.Errorf("got %q and %q", first.Buf, other.Buf)
	}
}

func TestSockets_Streams(t *testing.T) {
	a, b := listenOnLoopback(t), listenOnLoopback(t)
	out, err := a.DialTimeout(b.tcp.Addr().String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Write([]byte("all I know")); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	in := <-b.StreamCh()
	got, err := io.ReadAll(in)
	if string(got) != "all I know" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
}

// The readers end at Shutdown although no one receives the packets and streams.
func TestSockets_ShutdownWaitsForNobody(t *testing.T) {
	a, b := listenOnLoopback(t), listenOnLoopback(t)
	if _, err := a.WriteTo([]byte("x"), b.udp.LocalAddr().String()); err != nil {
		t.Fatal(err)
	}
	out, err := a.DialTimeout(b.tcp.Addr().String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for range 2 {
		if err := b.Shutdown(); err != nil {
			t.Fatal(err)
		}
	}
}

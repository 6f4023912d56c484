//go:build linux

package gossip

import (
	"bytes"
	"compress/lzw"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/memberlist"

	"swarm/overlay/gossip/envelope"
)

// wire is a transport whose other end is the test.
type wire struct {
	packets chan *memberlist.Packet
	streams chan net.Conn
	sent    chan []byte
}

func (w *wire) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	return net.ParseIP(ip).To4(), port, nil
}

func (w *wire) WriteTo(b []byte, _ string) (time.Time, error) {
	select {
	case w.sent <- b:
	default:
	}
	return time.Now(), nil
}

func (w *wire) DialTimeout(string, time.Duration) (net.Conn, error) { return nil, net.ErrClosed }
func (w *wire) PacketCh() <-chan *memberlist.Packet                 { return w.packets }
func (w *wire) StreamCh() <-chan net.Conn                           { return w.streams }
func (w *wire) Shutdown() error                                     { return nil }

// target returns a node with a transport, and a Sealer of another member.
func target(t testing.TB) (*wire, *envelope.Sealer, *Gossip) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), sent: make(chan []byte, 1)}
	addr := netip.MustParseAddr("10.0.0.1")
	keys := [][]byte{bytes.Repeat([]byte{1}, KeySize)}
	g, err := New(Config{NodeID: "n1", BindAddr: addr, AdvertiseAddr: addr, Keys: keys},
		Deps{Log: slog.New(slog.DiscardHandler), Key: func() *ecdsa.PrivateKey { return key }, Transport: w})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return w, envelope.NewSealer("n2", g.ring, func() *ecdsa.PrivateKey { return key }), g
}

func message(kind byte, bodies ...map[string]any) []byte {
	out := bytes.NewBuffer([]byte{kind})
	for _, body := range bodies {
		if err := codec.NewEncoder(out, &codec.MsgpackHandle{}).Encode(body); err != nil {
			panic(err)
		}
	}
	return out.Bytes()
}

var (
	ping      = message(msgPing, map[string]any{"SeqNo": 1, "Node": "n1", "SourceAddr": []byte{10, 0, 0, 2}, "SourcePort": 7946, "SourceNode": "n2"})
	suspect   = message(msgSuspect, map[string]any{"Incarnation": uint32(1 << 20), "Node": "n1", "From": "n2"})
	aliveBody = map[string]any{"Incarnation": 300, "Node": "n3", "Addr": []byte{10, 0, 0, 3}, "Port": 7946, "Meta": metaOf(300), "Vsn": []byte{1, 5, 2, 0, 0, 0}}
	header    = map[string]any{"Nodes": 1, "UserStateLen": 0, "Join": true}
	stateBody = map[string]any{"Name": "n3", "Addr": []byte{10, 0, 0, 3}, "Port": 7946, "Meta": metaOf(1), "Incarnation": 1, "State": 0, "Vsn": []byte{1, 5, 2, 0, 0, 0}}
)

// metaOf returns a statement with an incarnation, and without a signature.
func metaOf(incarnation uint32) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, bodyAt), incarnation), make([]byte, 9)...)
}

func with(body map[string]any, field string, value any) map[string]any {
	out := map[string]any{}
	for k, v := range body {
		out[k] = v
	}
	if out[field] = value; value == nil {
		delete(out, field)
	}
	return out
}

// twice returns a message with one more field, which has the name of a field that it has.
func twice(b []byte, name string, value any) []byte {
	extra := message(0, map[string]any{name: value})
	b[1]++ // the number of fields
	return append(b, extra[2:]...)
}

func bomb() []byte {
	var squeezed bytes.Buffer
	w := lzw.NewWriter(&squeezed, lzw.LSB, 8)
	_, _ = w.Write(make([]byte, 1<<20))
	_ = w.Close()
	return message(9, map[string]any{"Algo": 0, "Buf": squeezed.Bytes()})
}

func compound(parts ...[]byte) []byte {
	out := []byte{msgCompound, byte(len(parts))}
	for _, p := range parts {
		out = append(out, byte(len(p)>>8), byte(len(p)))
	}
	return append(out, bytes.Join(parts, nil)...)
}

func TestAdmit(t *testing.T) {
	checked := func(b []byte) []byte { return append([]byte{msgChecked, 0, 0, 0, 0}, b...) }
	g := &Gossip{self: "n1"}
	ahead := uint32(time.Now().Unix() + 60)
	nested := ping
	for range 100 {
		nested = compound(nested)
	}
	for _, tt := range []struct {
		name           string
		b              []byte
		packet, stream bool
	}{
		{"ping", ping, true, true},
		{"checked ping", checked(ping), true, false},
		{"suspect", suspect, true, false},
		{"alive", message(msgAlive, aliveBody), true, false},
		{"ack", message(msgAck, map[string]any{"SeqNo": 1 << 20, "Payload": nil}), true, true},
		{"indirect ping", message(msgIndirectPing, map[string]any{"SeqNo": 1, "Target": []byte{10, 0, 0, 3}, "Port": 7946, "Node": "n3", "Nack": true}), true, false},
		{"two in one", compound(ping, suspect), true, false},
		{"state", message(msgPushPull, header, stateBody), false, true},
		{"error", message(msgError, map[string]any{"Error": "no"}), false, true},
		{"nothing", nil, false, false},
		{"nothing checked", checked(nil), false, false},
		{"nested", nested, false, false},
		{"checked twice", checked(checked(ping)), false, false},
		{"cut off compound", compound(ping)[:20], false, false},
		{"cut off ping", ping[:len(ping)-1], false, false},
		{"more after the ping", append(bytes.Clone(ping), 1), false, false},
		{"bomb", bomb(), false, false},
		{"bomb in a compound", compound(bomb()), false, false},
		{"message of an application", message(8, map[string]any{"Name": "_serf_install-key"}), false, false},
		{"encrypted", message(10, map[string]any{}), false, false},
		{"label", []byte{244, 1, 'x', 0}, false, false},
		{"unknown field", message(msgPing, map[string]any{"Other": 1}), false, false},
		{"not a map", []byte{msgPing, 0x93, 1, 2, 3}, false, false},
		{"address of 3 bytes", message(msgAlive, with(aliveBody, "Addr", []byte{1, 2, 3})), false, false},
		{"short versions", message(msgAlive, with(aliveBody, "Vsn", []byte{1, 5})), false, false},
		{"long name", message(msgAlive, with(aliveBody, "Node", string(make([]byte, 65)))), false, false},
		{"negative port", message(msgAlive, with(aliveBody, "Port", -1)), false, false},
		{"large port", message(msgAlive, with(aliveBody, "Port", 70000)), false, false},
		{"text for a number", message(msgAlive, with(aliveBody, "Port", "1")), false, false},
		{"state with short versions", message(msgPushPull, header, with(stateBody, "Vsn", []byte{1, 5})), false, false},
		{"state of a million nodes", message(msgPushPull, with(header, "Nodes", 1<<20), stateBody), false, false},
		{"state of fewer nodes", message(msgPushPull, with(header, "Nodes", 2), stateBody), false, false},
		{"state of the application", message(msgPushPull, with(header, "UserStateLen", 1<<20), stateBody), false, false},
		{"negative state of the application", message(msgPushPull, with(header, "UserStateLen", -1), stateBody), false, false},
		{"suspect whose objection would wrap", message(msgSuspect, map[string]any{"Incarnation": uint32(1<<32 - 1), "Node": "n1", "From": "n2"}), false, false},
		{"dead of an incarnation that may not be", message(msgDead, map[string]any{"Incarnation": uint32(1<<32 - 1), "Node": "n1", "From": "n2"}), false, false},
		{"dead ahead of the clock", message(msgDead, map[string]any{"Incarnation": uint32(time.Now().Unix() + 60), "Node": "n1", "From": "n2"}), false, false},
		{"alive a little ahead of the clock", message(msgAlive, with(with(aliveBody, "Incarnation", ahead), "Meta", metaOf(ahead))), true, false},
		{"alive of an incarnation that is not in the statement", message(msgAlive, with(aliveBody, "Incarnation", 301)), false, false},
		{"alive without a statement", message(msgAlive, with(aliveBody, "Meta", nil)), false, false},
		{"alive with two incarnations", twice(message(msgAlive, aliveBody), "Incarnation", 301), false, false},
		{"state of an incarnation that is not in the statement", message(msgPushPull, header, with(stateBody, "Incarnation", 2)), false, false},
		{"state of a dead node, ahead of the clock", message(msgPushPull, header, with(with(stateBody, "Incarnation", ahead), "State", 2)), false, false},
		{"state of a dead node, of another member's claim", message(msgPushPull, header, with(with(stateBody, "Incarnation", 2), "State", 2)), false, true},
		{"alive of an incarnation that may not be", message(msgAlive, with(with(aliveBody, "Incarnation", uint32(1<<32-1)), "Meta", metaOf(1<<32-1))), false, false},
		{"state of an incarnation that may not be", message(msgPushPull, header, with(with(stateBody, "Incarnation", uint32(1<<32-1)), "Meta", metaOf(1<<32-1))), false, false},
		{"unknown state", message(msgPushPull, header, with(stateBody, "State", 4)), false, false},
	} {
		if err := admitPacket(withoutChecksum(tt.b), g.checkClaim); (err == nil) != tt.packet {
			t.Errorf("%s in a packet: %v", tt.name, err)
		}
		if err := admitStream(tt.b, g.checkClaim); (err == nil) != tt.stream {
			t.Errorf("%s on a stream: %v", tt.name, err)
		}
	}
}

// deliver sends a packet to the node. When it returns, the node has handled the packet before this
// one.
func deliver(t testing.TB, w *wire, s *envelope.Sealer, b []byte) {
	t.Helper()
	for _, b := range [][]byte{b, ping} {
		sealed, err := s.Packet(b)
		if err != nil {
			t.Fatal(err)
		}
		w.packets <- &memberlist.Packet{Buf: sealed, From: &net.UDPAddr{IP: net.IP{10, 0, 0, 2}, Port: 7946}, Timestamp: time.Now()}
	}
	select {
	case <-w.sent: // the answer to a ping
	case <-time.After(30 * time.Second):
		t.Fatalf("no answer to a ping after %q", b)
	}
}

// FuzzPacket sends what a member with a modified program could send. The goroutines of memberlist
// must not panic.
func FuzzPacket(f *testing.F) {
	w, s, _ := target(f)
	for _, b := range [][]byte{nil, ping, suspect, message(msgAlive, aliveBody), compound(ping, suspect), bomb()} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 1<<16 {
			deliver(t, w, s, b)
		}
	})
}

// FuzzStream sends on streams what a member with a modified program, or a stranger, could send.
func FuzzStream(f *testing.F) {
	w, s, _ := target(f)
	f.Add(message(msgPushPull, header, stateBody), true)
	f.Add(message(msgPushPull, header, with(stateBody, "State", 3)), true)
	f.Add(ping, true)
	f.Add([]byte{0, 0, 0, 9, 'S'}, false)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed {
			var err error
			if b, err = s.Message(b); err != nil {
				return
			}
		}
		here, there := net.Pipe()
		w.streams <- there
		go func() {
			_, _ = here.Write(b)
			_ = here.SetDeadline(time.Now()) // The rest of the answer is not needed.
		}()
		_, _ = io.Copy(io.Discard, here)
		_ = here.Close()
	})
}

// A stranger that holds streams open does not keep members out, and loses its streams at the
// deadline.
func TestGuard_StreamsAreBounded(t *testing.T) {
	w, s, g := target(t)
	g.roster.Store(&roster{addrs: map[netip.Addr]bool{netip.MustParseAddr("10.0.0.2"): true, netip.MustParseAddr("fd00::2"): true}})
	var held []net.Conn
	connect := func(from string) (refused bool) {
		here, there := net.Pipe()
		w.streams <- addressed{there, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))}
		deliver(t, w, s, ping) // The node has handled the packets before it.
		_ = here.SetReadDeadline(time.Now().Add(time.Millisecond))
		_, err := here.Read(make([]byte, 1))
		if refused = err == io.EOF; !refused {
			held = append(held, here)
		}
		return refused
	}
	for i := range maxStreamsEach + 1 {
		if refused := connect("10.9.9.9:1"); refused != (i == maxStreamsEach) {
			t.Errorf("stream %d of one address refused: %v", i, refused)
		}
	}
	for i := range maxStreams {
		connect(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 8, byte(i)}), 1).String())
	}
	if len(held) != maxStreams {
		t.Errorf("%d streams of strangers, want %d", len(held), maxStreams)
	}
	if connect("10.0.0.2:1") || connect("[fd00::2]:1") {
		t.Error("a member is kept out")
	}
	for _, c := range held { // The deadline that memberlist set passes.
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a silent stream: %v", err)
		}
	}
	if connect("10.9.9.9:1") {
		t.Error("streams that have ended still count")
	}
}

type addressed struct {
	net.Conn
	from net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.from }

//go:build linux

package gossip

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"math"
	"net/netip"
	"testing"
	"time"

	"swarm/overlay/gossip/envelope"
)

// A node makes a first and a later statement. Between them memberlist reports the node as up or
// not.
func TestHandleAlive(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	here, there := netip.MustParseAddrPort("10.0.0.2:7946"), netip.MustParseAddrPort("10.0.0.3:7946")
	type words struct {
		issued  uint64
		leaving bool
		addr    netip.AddrPort
	}
	meta := func(w words) []byte {
		b, err := statement{issued: w.issued, leaving: w.leaving, tags: map[string]string{"a": "b"}}.sign(key, "n2", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, tt := range []struct {
		name         string
		first, later words
		up           bool
		refused      bool
		conflict     bool
		want         Status
		at           netip.AddrPort
	}{
		{name: "says goodbye", first: words{1, false, here}, later: words{2, true, here}, up: true, want: Left, at: here},
		{name: "goodbye of the last time", first: words{2, false, here}, later: words{1, true, here}, up: true, refused: true, want: Alive, at: here},
		{name: "goodbye of the last time, node has failed", first: words{2, false, here}, later: words{1, true, here}, refused: true, want: Failed, at: here},
		{name: "returns", first: words{1, true, here}, later: words{2, false, here}, up: true, want: Alive, at: here},
		{name: "returns with its clock set back", first: words{2, true, here}, later: words{1, false, here}, want: Failed, at: here},
		{name: "an older statement", first: words{2, false, here}, later: words{1, false, here}, up: true, refused: true, want: Alive, at: here},
		{name: "a second machine", first: words{1, false, here}, later: words{2, false, there}, up: true, conflict: true, want: Alive, at: here},
		{name: "at an address of another host", first: words{1, false, here}, later: words{2, false, there}, refused: true, want: Failed, at: here},
	} {
		g := &Gossip{
			self: "n1", members: map[string]*record{}, up: map[string]bool{}, changed: make(chan struct{}), conflicts: make(chan Conflict, 1),
		}
		g.roster.Store(&roster{received: true, peers: map[string]Peer{"n2": {Addr: here.Addr(), keys: []*ecdsa.PublicKey{&key.PublicKey}}}})
		if err := g.handleAlive("n2", tt.first.addr, meta(tt.first)); err != nil {
			t.Fatal(err)
		}
		g.updateRecord("n2", tt.up, func(*record) {})
		err := g.handleAlive("n2", tt.later.addr, meta(tt.later))
		if (err != nil) != tt.refused || len(g.conflicts) > 0 != tt.conflict {
			t.Errorf("%s: %v, %d conflicts", tt.name, err, len(g.conflicts))
		}
		if m, _ := g.Member("n2"); m.Status != tt.want || m.Addr != tt.at {
			t.Errorf("%s: %s at %s, want %s at %s", tt.name, m.Status, m.Addr, tt.want, tt.at)
		}
		if g.handleAlive("n2", here, make([]byte, 30)) == nil || g.handleAlive("n2", here, nil) == nil || g.handleAlive("n3", here, meta(tt.first)) == nil {
			t.Errorf("%s: a forged statement was accepted", tt.name)
		}
	}
}

// A node claims the address of another host, before or after the managers have listed its own.
func TestHandleAlive_AddressMustBeListed(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own, victim := netip.MustParseAddrPort("10.0.0.2:7946"), netip.MustParseAddrPort("192.0.2.9:53")
	meta, err := statement{issued: 1}.sign(key, "n2", victim)
	if err != nil {
		t.Fatal(err)
	}
	list := &roster{received: true, peers: map[string]Peer{"n2": {Addr: own.Addr(), keys: []*ecdsa.PublicKey{&key.PublicKey}}}}
	for _, early := range []bool{true, false} {
		g := &Gossip{self: "n1", members: map[string]*record{}, up: map[string]bool{}, changed: make(chan struct{})}
		g.roster.Store(&roster{})
		if early {
			if err := g.handleAlive("n2", victim, meta); err != nil {
				t.Fatal(err)
			}
		}
		g.roster.Store(list)
		g.applyRoster(list)
		if err := g.handleAlive("n2", victim, meta); err == nil {
			t.Errorf("early %t: the address of another host was accepted", early)
		}
		if m, known := g.Member("n2"); known {
			t.Errorf("early %t: got the node at %s, want it unknown", early, m.Addr)
		}
	}
}

// A statement has been made with the last possible time, because the key of the node was copied or
// its clock was wrong. The node can still replace it.
func TestStatement_DatedAhead(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort("10.0.0.2:7946")
	trust := envelope.Trust{Keys: []*ecdsa.PublicKey{&key.PublicKey}}
	now := uint64(time.Now().UnixNano())
	for issued, accepted := range map[uint64]bool{
		1:                        true,
		now:                      true,
		now + 59*60*1e9:          true,
		now + 2*maxClockSkew*1e9: false,
		math.MaxInt64:            false,
		math.MaxUint64:           false,
	} {
		meta, err := statement{issued: issued}.sign(key, "n2", at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readStatement(meta, "n2", at, trust); (err == nil) != accepted {
			t.Errorf("statement of %d, now %d: got %v, want accepted: %t", issued, now, err, accepted)
		}
		next := nextIssued(issued)
		if tooFarAhead(next) || next < now || accepted && next <= issued {
			t.Errorf("statement of %d: the next is of %d, now %d", issued, next, now)
		}
	}
}

func TestStatement_Bounds(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tags := range map[string]map[string]string{
		"a tag too long": {"a": string(make([]byte, 256))},
		"all too long":   {"a": string(make([]byte, 255)), "b": string(make([]byte, 255))},
	} {
		if _, err := (statement{tags: tags}).sign(key, "n", netip.AddrPort{}); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func FuzzStatement(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	addr := netip.MustParseAddrPort("10.0.0.2:7946")
	meta, err := statement{issued: 7, leaving: true, tags: map[string]string{"role": "worker"}}.sign(key, "n2", addr)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(meta)
	trust := envelope.Trust{Keys: []*ecdsa.PublicKey{&key.PublicKey}}
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := readStatement(b, "n2", addr, envelope.Trust{AnyKey: true}); err == nil && s.leaving {
			t.Error("an unverified goodbye counts")
		}
		if _, err := readStatement(b, "n3", addr, trust); err == nil {
			t.Error("the statement of another node counts")
		}
	})
}

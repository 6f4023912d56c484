package envelope

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"slices"
	"testing"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pair returns a Sealer, and an Opener that knows the keys of the Sealer's node.
func pair(t testing.TB, known ...*ecdsa.PublicKey) (*Sealer, *Opener, *Ring) {
	t.Helper()
	ring, key := &Ring{}, newKey(t)
	if err := ring.Set([][]byte{bytes.Repeat([]byte{1}, 32)}); err != nil {
		t.Fatal(err)
	}
	known = append(known, &key.PublicKey)
	trust := func(id string) (Trust, bool) { return Trust{Keys: known}, id == "a" }
	return NewSealer("a", ring, func() *ecdsa.PrivateKey { return key }), NewOpener(ring, trust), ring
}

func packet(t testing.TB, s *Sealer, text string) []byte {
	t.Helper()
	b, err := s.Packet([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpen(t *testing.T) {
	s, o, ring := pair(t)
	stranger := NewSealer("b", ring, s.key)
	other := newKey(t)
	forger := NewSealer("a", ring, func() *ecdsa.PrivateKey { return other })
	foreign := &Ring{}
	if err := foreign.Set([][]byte{bytes.Repeat([]byte{9}, 32)}); err != nil {
		t.Fatal(err)
	}
	good := packet(t, s, "good")
	if len(good) > len("good")+Overhead(1) {
		t.Errorf("an envelope of %d bytes for 4, want at most %d more", len(good), Overhead(1))
	}
	flipped := packet(t, s, "flipped")
	flipped[len(flipped)-1] ^= 1
	for _, tt := range []struct {
		name string
		b    []byte
		want error
	}{
		{"good", slices.Clone(good), nil},
		{"again", slices.Clone(good), ErrReplayed},
		{"of a node that is no member", packet(t, stranger, "x"), ErrUnknown},
		{"in another's name", packet(t, forger, "x"), ErrForged},
		{"foreign key", packet(t, NewSealer("a", foreign, s.key), "x"), ErrForeign},
		{"flipped", flipped, ErrForeign},
		{"empty", nil, ErrForeign},
		{"short", []byte{magic, 1, 2}, ErrForeign},
		{"vxlan", bytes.Repeat([]byte{8}, 50), ErrForeign},
	} {
		got, err := o.Open(tt.b)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if err == nil && (string(got.Payload) != tt.name || got.Sender != "a" || got.Kind != Packet) {
			t.Errorf("%s: opened %+v", tt.name, got)
		}
	}
}

func TestOpen_AnyKeyAcceptsAnySignature(t *testing.T) {
	s, _, ring := pair(t)
	o := NewOpener(ring, func(string) (Trust, bool) { return Trust{AnyKey: true}, true })
	if _, err := o.Open(packet(t, s, "x")); err != nil {
		t.Error(err)
	}
	if len(o.seen) > 0 {
		t.Error("an unverified sender is remembered, want no memory used")
	}
}

// Both keys of a node are accepted while its certificate changes.
func TestOpen_FormerKeyIsAccepted(t *testing.T) {
	before := newKey(t)
	s, o, _ := pair(t, &before.PublicKey)
	newest := s.key()
	for _, key := range []*ecdsa.PrivateKey{before, newest} {
		s.key = func() *ecdsa.PrivateKey { return key }
		if _, err := o.Open(packet(t, s, "x")); err != nil {
			t.Error(err)
		}
	}
}

func TestRing_OldKeysDecrypt(t *testing.T) {
	s, o, ring := pair(t)
	one, two := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	old := packet(t, s, "x")
	if err := ring.Set([][]byte{two, one}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Open(old); err != nil {
		t.Error(err)
	}
	if err := ring.Set([][]byte{two}); err != nil {
		t.Fatal(err)
	}
	s.session++
	if _, err := o.Open(packet(t, s, "x")); err != nil {
		t.Error(err)
	}
	for _, bad := range [][][]byte{nil, {{1, 2, 3}}} {
		if ring.Set(bad) == nil {
			t.Errorf("%v is taken for keys", bad)
		}
	}
}

func TestMessage(t *testing.T) {
	s, o, _ := pair(t)
	for _, size := range []int{0, 1, partSize, partSize + 1, 3 * partSize} {
		want := bytes.Repeat([]byte{7}, size)
		b, err := s.Message(want)
		if err != nil {
			t.Fatal(err)
		}
		from, got, err := o.ReadMessage(bytes.NewReader(slices.Clone(b)))
		if err != nil || from != "a" || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d from %q, %v", size, len(got), from, err)
		}
		if _, _, err := o.ReadMessage(bytes.NewReader(b)); !errors.Is(err, ErrReplayed) {
			t.Errorf("%d bytes again: %v", size, err)
		}
	}
	if _, err := s.Message(make([]byte, MaxMessage+1)); err == nil {
		t.Error("a message that nobody would read is sent")
	}
}

// Parts of two messages do not make a third one, a packet is not a part of a message, and an
// announced length is not allocated.
func TestReadMessage_Refuses(t *testing.T) {
	s, o, _ := pair(t)
	message := func() []byte {
		b, err := s.Message(make([]byte, 2*partSize))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	a, b := message(), message()
	if _, _, err := o.ReadMessage(bytes.NewReader(slices.Concat(a[:len(a)/2], b[len(b)/2:]))); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrForeign) {
		t.Errorf("spliced: %v", err)
	}
	p := packet(t, s, "x")
	if _, _, err := o.ReadMessage(bytes.NewReader(append([]byte{0, 0, 0, byte(len(p))}, p...))); !errors.Is(err, ErrMalformed) {
		t.Errorf("a packet: %v", err)
	}
	if _, _, err := o.ReadMessage(bytes.NewReader([]byte{255, 255, 255, 255, 1})); !errors.Is(err, ErrForeign) {
		t.Errorf("4 GiB announced: %v", err)
	}
}

func TestWindow(t *testing.T) {
	var w window
	seen := map[uint64]bool{}
	top := uint64(0)
	for _, seq := range []uint64{1, 3, 2, 2, 64, 63, 65, 300, 299, 109, 108, 107, 300, 1000, 1, 900, 901, 900, 5000, 4999} {
		want := !seen[seq] && seq+windowSize-64 > top
		for _, take := range []bool{false, true} {
			if got := w.fresh(seq, take); got != want {
				t.Errorf("%d after %d, take %v: fresh %v, want %v", seq, top, take, got, want)
			}
		}
		seen[seq] = true
		top = max(top, seq)
	}
	if w.fresh(0, true) {
		t.Error("no sequence number counts as one")
	}
}

func FuzzOpen(f *testing.F) {
	s, o, ring := pair(f)
	f.Add(packet(f, s, "x"), false)
	f.Add([]byte{0}, true)
	f.Fuzz(func(t *testing.T, b []byte, encrypted bool) {
		if encrypted { // an envelope from somebody who has a gossip key
			key := &(*ring.keys.Load())[0]
			e := append([]byte{magic}, key.id[:]...)
			e = append(e, make([]byte, nonceLen)...)
			b = key.aead.Seal(e, e[1+idSize:headerSize], b, e[:1+idSize])
		}
		_, _ = o.Open(slices.Clone(b))
		_, _, _ = o.ReadMessage(bytes.NewReader(b))
	})
}

func BenchmarkPacket(b *testing.B) {
	s, o, _ := pair(b)
	payload := make([]byte, 100)
	b.Run("seal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Packet(payload); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		sealed := packet(b, s, string(payload))
		for b.Loop() {
			clear(o.seen)
			if _, err := o.Open(slices.Clone(sealed)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
)

func filled(b byte) (k Key) {
	for i := range k {
		k[i] = b
	}
	return k
}

func TestRing_SealOpen(t *testing.T) {
	ring := NewRing(NewKey())
	for _, plain := range []string{"", "x", strings.Repeat("entry", 1000)} {
		sealed := ring.Seal([]byte(plain), []byte("7"))
		if len(sealed) != len(plain)+Overhead {
			t.Errorf("overhead %d, want %d", len(sealed)-len(plain), Overhead)
		}
		if got, err := ring.Open(sealed, []byte("7")); err != nil || string(got) != plain {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := ring.Open(sealed, []byte("8")); !errdefs.IsDataLoss(err) {
			t.Errorf("another aad: got %v", err)
		}
	}
	if bytes.Equal(ring.Seal([]byte("x"), nil), ring.Seal([]byte("x"), nil)) {
		t.Error("sealing twice gives the same bytes")
	}
}

func TestRing_EveryFlippedBitAndEveryCutIsSeen(t *testing.T) {
	ring := NewRing(NewKey())
	sealed := ring.Seal([]byte("hello"), nil)
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := ring.Open(bad, nil); err == nil {
			t.Errorf("flipped byte %d is not seen", i)
		}
		if _, err := ring.Open(sealed[:i], nil); err == nil {
			t.Errorf("cut at %d is not seen", i)
		}
	}
}

func TestRing_Rotation(t *testing.T) {
	old := NewRing(NewKey())
	next := old.Rotate()
	sealed := old.Seal([]byte("x"), nil)
	if _, err := next.Open(sealed, nil); err != nil {
		t.Errorf("the rotated ring cannot open older records: %v", err)
	}
	if _, err := next.OnlyCurrent().Open(sealed, nil); !errdefs.IsNotFound(err) {
		t.Errorf("without the key: got %v, want not found", err)
	}
	if old.Current() == next.Current() || next.Len() != 2 {
		t.Error("rotation kept the key")
	}
}

func TestKey_IsNeverPrinted(t *testing.T) {
	k := filled(0xab)
	for _, verb := range []string{"%v", "%x", "%s", "%d", "%+v", "%#v"} {
		if s := fmt.Sprintf(verb, k) + fmt.Sprintf(verb, []Key{k}); strings.Contains(s, "abab") || strings.Contains(s, "171 171") {
			t.Errorf("%s prints the key: %s", verb, s)
		}
	}
}

func sealStream(t testing.TB, ring *Ring, plain []byte) []byte {
	var out bytes.Buffer
	w, err := NewWriter(&out, ring)
	if err != nil {
		t.Fatal(err)
	}
	for len(plain) > 0 { // in odd pieces
		n := min(len(plain), 10_007)
		if _, err := w.Write(plain[:n]); err != nil {
			t.Fatal(err)
		}
		plain = plain[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil {
		t.Error("a second Close passes")
	}
	return out.Bytes()
}

func openStream(ring *Ring, sealed io.Reader) ([]byte, error) {
	r, err := NewReader(sealed, ring)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestStream_RoundTripAtEveryBorder(t *testing.T) {
	ring := NewRing(NewKey())
	for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 2 * chunkSize, 3*chunkSize + 7} {
		plain := bytes.Repeat([]byte{byte(size), 3, 5}, size/3+1)[:size]
		sealed := sealStream(t, ring, plain)
		for name, r := range map[string]io.Reader{
			"whole": bytes.NewReader(sealed), "in halves": iotest.HalfReader(bytes.NewReader(sealed)), "error with data": iotest.DataErrReader(bytes.NewReader(sealed)),
		} {
			if got, err := openStream(ring, r); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%d bytes, %s: got %d bytes, %v", size, name, len(got), err)
			}
		}
	}
}

func TestStream_TamperingIsSeen(t *testing.T) {
	ring := NewRing(NewKey())
	plain := bytes.Repeat([]byte("0123456789"), 3*chunkSize/10)
	sealed := sealStream(t, ring, plain)
	chunk := func(i int) []byte {
		return sealed[streamHeader+i*sealedChunk : min(len(sealed), streamHeader+(i+1)*sealedChunk)]
	}
	for _, tt := range []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing", nil, ErrTruncated},
		{"half a header", sealed[:10], ErrTruncated},
		{"header alone", sealed[:streamHeader], ErrTruncated},
		{"cut between chunks", sealed[:streamHeader+sealedChunk], ErrTruncated},
		{"cut between later chunks", sealed[:streamHeader+2*sealedChunk], ErrTruncated},
		{"cut in a chunk", sealed[:streamHeader+100], errdefs.ErrDataLoss},
		{"last byte missing", sealed[:len(sealed)-1], errdefs.ErrDataLoss},
		{"one byte more", append(bytes.Clone(sealed), 0), errdefs.ErrDataLoss},
		{"chunks swapped", bytes.Join([][]byte{sealed[:streamHeader], chunk(1), chunk(0), chunk(2)}, nil), errdefs.ErrDataLoss},
		{"chunk dropped", bytes.Join([][]byte{sealed[:streamHeader], chunk(0), chunk(2)}, nil), errdefs.ErrDataLoss},
		{"stream doubled", append(bytes.Clone(sealed), sealed...), errdefs.ErrDataLoss},
		{"an entry", ring.Seal(make([]byte, 100), nil), errdefs.ErrDataLoss},
	} {
		got, err := openStream(ring, bytes.NewReader(tt.in))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
		if !bytes.HasPrefix(plain, got) {
			t.Errorf("%s: bytes came out that never went in", tt.name)
		}
	}
	for i := 0; i < len(sealed); i += 997 {
		bad := bytes.Clone(sealed)
		bad[i] ^= 0x40
		if _, err := openStream(ring, bytes.NewReader(bad)); err == nil {
			t.Errorf("flipped byte %d is not seen", i)
		}
	}
	if _, err := openStream(NewRing(NewKey()), bytes.NewReader(sealed)); !errdefs.IsNotFound(err) {
		t.Errorf("another ring: got %v, want not found", err)
	}
	failing := io.MultiReader(bytes.NewReader(sealed[:streamHeader+5]), iotest.ErrReader(errors.New("disk on fire")))
	if _, err := openStream(ring, failing); err == nil || err.Error() != "disk on fire" {
		t.Errorf("a reader that fails: got %v", err)
	}
}

func TestAutolock(t *testing.T) {
	ring := NewRing(NewKey()).Rotate()
	lock, other := NewUnlockKey(), NewUnlockKey()
	same := func(got *Ring, err error) {
		t.Helper()
		if err != nil || got.Current() != ring.Current() || got.Len() != ring.Len() {
			t.Errorf("got %v, %v", got, err)
		}
	}
	same(ParseRing(ring.Encode(nil), nil))
	same(ParseRing(ring.Encode(nil), &lock))
	same(ParseRing(ring.Encode(&lock), &lock))
	if _, err := ParseRing(ring.Encode(&lock), nil); !errors.Is(err, ErrLocked) {
		t.Errorf("no unlock key: got %v", err)
	}
	if _, err := ParseRing(ring.Encode(&lock), &other); !errors.Is(err, ErrWrongUnlockKey) {
		t.Errorf("wrong unlock key: got %v", err)
	}
	if _, err := ParseRing(bytes.Replace(ring.Encode(&lock), []byte("yes"), []byte("no"), 1), nil); !errdefs.IsDataLoss(err) {
		t.Errorf("a locked file that claims not to be: got %v", err)
	}
	back, err := ParseUnlockKey(lock.Text() + "\n")
	if err != nil || back != lock {
		t.Errorf("ParseUnlockKey(Text()): %v", err)
	}
	for _, bad := range []string{"", "SWMKEY-2-abc", lock.Text()[:30], lock.Text() + "A", "SWMTKN-1-a-b", strings.Replace(lock.Text(), "-1-", "-1-\n", 1)} {
		if _, err := ParseUnlockKey(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("ParseUnlockKey(%q) = %v, want invalid argument", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	lock := UnlockKey{filled(7)}
	ring := NewRing(filled(1))
	f.Add(ring.Encode(nil))
	f.Add(ring.Encode(&lock))
	f.Add(ring.Seal([]byte("x"), nil))
	f.Add(sealStream(f, ring, []byte("x")))
	f.Add([]byte(lock.Text()))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := ParseRing(data, &lock); err == nil {
			if again, err := ParseRing(r.Encode(&lock), &lock); err != nil || again.Current() != r.Current() {
				t.Errorf("ring does not survive a round trip: %v", err)
			}
		}
		if u, err := ParseUnlockKey(string(data)); err == nil && u.Text() != strings.TrimSpace(string(data)) {
			t.Errorf("%q parses to %q", data, u.Text())
		}
		_, _ = ring.Open(data, nil)
		_, _ = openStream(ring, bytes.NewReader(data))
	})
}

func BenchmarkSeal1K(b *testing.B) {
	ring, plain := NewRing(NewKey()), make([]byte, 1024)
	b.SetBytes(1024)
	for b.Loop() {
		ring.Seal(plain, nil)
	}
}

func BenchmarkStream(b *testing.B) {
	ring, plain := NewRing(NewKey()), make([]byte, chunkSize)
	w, _ := NewWriter(io.Discard, ring)
	b.SetBytes(chunkSize)
	for b.Loop() {
		_, _ = w.Write(plain)
	}
}

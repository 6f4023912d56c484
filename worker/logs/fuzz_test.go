package logs

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzSource checks that the records of a source lose nothing and repeat nothing of the container's
// output.
func FuzzSource(f *testing.F) {
	f.Add([]byte("one\ntwo\nthree"), uint16(100))
	f.Add(make([]byte, maxLine+2), uint16(9))
	f.Fuzz(func(t *testing.T, out []byte, size uint16) {
		path := filepath.Join(t.TempDir(), "stdout")
		if err := os.WriteFile(path, out, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openSource(path, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer s.f.Close()
		var got []byte
		buf := make([]byte, maxLine+1+int(size)) // Never smaller in a daemon.
		for more := true; more; {
			before := s.offset
			more, err = s.lines(buf, 0, true, func(r record) {
				got = append(got, r.data...)
				if r.flags&flagPartial == 0 {
					got = append(got, '\n')
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if more && s.offset == before {
				t.Fatalf("no progress at byte %d of %d", before, len(out))
			}
		}
		if string(got) != string(out) {
			t.Errorf("%d bytes came back as %d", len(out), len(got))
		}
	})
}

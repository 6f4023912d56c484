//go:build linux

package inflate

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// repeated is a tar of one entry, many times.
func repeated(t *testing.T, h *tar.Header, body string, times int) io.Reader {
	t.Helper()
	var one bytes.Buffer
	w := tar.NewWriter(&one)
	h.Size = int64(len(body))
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	var all []io.Reader
	for range times {
		all = append(all, bytes.NewReader(one.Bytes()))
	}
	return io.MultiReader(append(all, bytes.NewReader(make([]byte, 1024)), bytes.NewReader([]byte("trailing")))...)
}

func TestEntries_AreBounded(t *testing.T) {
	folder := func() *tar.Header { return &tar.Header{Typeflag: tar.TypeDir, Name: "d/"} }
	for what, c := range map[string]struct {
		from    io.Reader
		refused bool
	}{
		"files":           {repeated(t, &tar.Header{Name: "f"}, strings.Repeat("x", 70_000), 100), false},
		"folders":         {repeated(t, folder(), "", 2000), false},
		"many folders":    {repeated(t, folder(), "", 2100), true},
		"many files":      {repeated(t, &tar.Header{Name: "f"}, "", 8000), false},
		"too many files":  {repeated(t, &tar.Header{Name: "f"}, "", 8200), true},
		"many attributes": {repeated(t, &tar.Header{Typeflag: tar.TypeDir, Name: "d/", PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 9000)}}, "", 150), true},
		"no tar":          {bytes.NewReader(make([]byte, 10<<20)), false},
		"text":            {strings.NewReader(strings.Repeat("text", 100_000)), false},
	} {
		want, got := sha256.New(), sha256.New()
		p := boundEntries(io.NopCloser(io.TeeReader(c.from, want)), 1<<20)
		_, err := io.Copy(got, p)
		if refused := errdefs.IsInvalidArgument(err) && strings.Contains(err.Error(), "too many entries"); refused != c.refused || !refused && err != nil {
			t.Errorf("%s: got %v, want a refusal: %t", what, err, c.refused)
		}
		if !c.refused && !bytes.Equal(want.Sum(nil), got.Sum(nil)) {
			t.Errorf("%s: the bytes differ", what)
		}
		if err := p.Close(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

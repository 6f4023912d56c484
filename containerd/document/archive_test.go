//go:build linux

package document_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"swarm/containerd/document"
)

// pack writes a tar. The sizes are those of the bodies.
func pack(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		h.Size, h.Mode = int64(len(e.body)), 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name}, body}
}

func link(name, to string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}, ""}
}

// unpack lists an archive as NAME, or NAME -> TARGET, and what follows.
func unpack(from io.Reader) (out []string, err error) {
	r := tar.NewReader(from)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		body, err := io.ReadAll(r)
		if err != nil {
			return out, err
		}
		out = append(out, fmt.Sprintf("%s>%s=%d %.20s", h.Name, h.Linkname, len(body), body))
	}
}

func TestArchive_PassesFilesAndLinks(t *testing.T) {
	large := strings.Repeat("layer", 100_000)
	list := `[{"Config":"c.json","RepoTags":["a:1"],"Layers":["dir/layer.tar","l2"]}]`
	data := pack(t,
		entry{tar.Header{Typeflag: tar.TypeDir, Name: "dir/"}, ""},
		entry{tar.Header{Typeflag: tar.TypeReg, Name: "dir/layer.tar", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}, large},
		file("empty", ""), link("l2", "dir/layer.tar"), file("./manifest.json", list),
		entry{tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}, ""},
		file(strings.Repeat("n", 256), "long"), file("oci-layout", "{}"), file("index.json", "{}"))
	want := []string{
		"dir/layer.tar>=500000 layerlayerlayerlayer", "empty>=0 ", "l2>dir/layer.tar=0 ", fmt.Sprintf("./manifest.json>=%d %.20s", len(list), list),
		strings.Repeat("n", 256) + ">=4 long", "oci-layout>=2 {}", "index.json>=2 {}",
	}
	for what, from := range map[string]io.Reader{"at once": bytes.NewReader(data), "by bytes": iotest.OneByteReader(bytes.NewReader(data))} {
		got, err := unpack(document.Archive(from))
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s: %v, %s", what, err, cmp.Diff(want, got))
		}
	}
	if got, err := unpack(document.Archive(bytes.NewReader(data[:100_000]))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut short: got %q, %v", got, err)
	}
	gone := errors.New("the sender is gone")
	if _, err := unpack(document.Archive(io.MultiReader(bytes.NewReader(data[:100_000]), iotest.ErrReader(gone)))); !errors.Is(err, gone) {
		t.Errorf("broken: got %v, want %v", err, gone)
	}
}

func TestArchive_IsBounded(t *testing.T) {
	repeat := func(e entry, n int) (out []entry) {
		for range n {
			out = append(out, e)
		}
		return out
	}
	list := func(element string, n int) entry {
		return file("a/../manifest.json", "["+strings.Repeat(element+",", n-1)+element+"]")
	}
	for what, c := range map[string]struct {
		entries []entry
		says    string
	}{
		"links":             {repeat(link("l", "x"), 16<<10+1), "more than 16384 entries"},
		"folders":           {repeat(entry{tar.Header{Typeflag: tar.TypeDir, Name: "d/"}, ""}, 16<<10+1), "more than 16384 entries"},
		"as many as may be": {repeat(file("f", ""), 16<<10), ""},
		"a name":            {[]entry{file(strings.Repeat("n", 257), "")}, "a name of 257 bytes, at most 256"},
		"a target":          {[]entry{link("l", strings.Repeat("n", 1000))}, "a name of 1000 bytes"},
		"a list":            {[]entry{list(" ", 5<<20)}, "manifest.json has 10485761 bytes, at most 4194304"},
		"elements":          {[]entry{list("{}", 1<<20)}, "manifest.json has 1048575 elements, at most 65536"},
		"images":            {[]entry{list("{}", 1025)}, "manifest.json has 1025 names of images, at most 1024"},
		"names":             {[]entry{list(`{"RepoTags":["a","b"]}`, 513)}, "manifest.json has 1026 names of images"},
		"layers":            {[]entry{list(`{"layers":[`+strings.Repeat(`"l",`, 128)+`"l"]}`, 1)}, "129 layers, at most 128"},
		"a second list":     {[]entry{list("{}", 1), list("{}", 1025)}, "1025 names of images"},
		"a layout":          {[]entry{file("oci-layout", strings.Repeat(" ", 5<<20))}, "oci-layout has 5242880 bytes"},
		"an index":          {[]entry{file("./index.json", strings.Repeat(" ", 5<<20))}, "index.json has 5242880 bytes"},
	} {
		_, err := unpack(document.Archive(bytes.NewReader(pack(t, c.entries...))))
		if c.says == "" {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		wantLimit(t, what, err, c.says)
	}
	// The list that is decoded is the list that was checked.
	if _, err := unpack(document.Archive(bytes.NewReader(pack(t, file("manifest.json", "[] trailing"))))); err == nil || document.Limit(err) != "" {
		t.Errorf("more behind a list: got %v, want an error", err)
	}
}

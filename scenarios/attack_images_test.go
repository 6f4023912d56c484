package scenarios

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"swarm/dev"
)

// TestAttackImages loads image archives whose documents are made to use up a node.
func TestAttackImages(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a daemon")
	}
	t.Parallel()
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 1, Managers: 1})
	var many strings.Builder
	for i := range 150_000 {
		fmt.Fprintf(&many, `,"N%d=x"`, i)
	}
	for _, step := range []struct {
		name    string
		archive hostile
		refusal string
	}{
		{"a large configuration", hostile{spaces: 300 << 20}, "at most 4194304 are allowed"},
		{"many variables", hostile{env: many.String()}, "at most 65536 are allowed"},
		{"long variables", hostile{env: `,"LONG=` + strings.Repeat("x", 1<<20) + `"`}, "at most 524288 are allowed"},
		{"a long list", hostile{list: "[" + strings.Repeat("{},", 10<<20/3) + "{}]"}, "manifest.json has 10485763 bytes, at most 4194304 are allowed"},
		{"many images", hostile{list: "[" + strings.Repeat("{},", 1<<20) + "{}]"}, "manifest.json has 1048576 elements, at most 65536 are allowed"},
		{"many links", hostile{links: 300_000}, "more than 16384 entries"},
	} {
		t.Run(step.name, func(t *testing.T) {
			c := c.in(t)
			archive := filepath.Join(t.TempDir(), "hostile.tar.gz")
			if err := step.archive.write(archive); err != nil {
				t.Fatal(err)
			}
			sent, err := os.Stat(archive)
			if err != nil {
				t.Fatal(err)
			}
			before := c.resident(c.hosts[0])
			out, err := c.run("image", "load", "-i", archive)
			_, refusal, refused := strings.Cut(strings.TrimSpace(out), "Error: ") // The output before the error is progress.
			if err == nil || !refused || !strings.Contains(refusal, step.refusal) || strings.Contains(refusal, "\n") || len(refusal) > 1024 {
				t.Errorf("image load: got %.2000q, %v, want one line: %s", out, err, step.refusal)
			}
			grown := c.resident(c.hosts[0]) - before
			t.Logf("an archive of %d bytes: the daemon grew by %d MiB, %s", sent.Size(), grown>>20, refusal)
			if grown > 2*mayGrow {
				t.Errorf("memory growth of the daemon: got %d MiB, want at most %d", grown>>20, 2*mayGrow>>20)
			}
			c.allReady()
		})
	}
}

// hostile is a compressed Docker archive of an empty image.
type hostile struct {
	env    string // more variables, as JSON strings with a comma before each
	spaces int64  // the number of spaces after its configuration
	list   string // replaces its manifest.json
	links  int    // the number of symbolic links to its layer
}

func (h hostile) write(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	layer := make([]byte, 1024) // an empty tar archive
	config := fmt.Sprintf(`{"os":"linux","architecture":%q,"config":{"Cmd":["/app"],"Env":["A=b"%s]},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`,
		runtime.GOARCH, h.env, sha256.Sum256(layer))
	for _, e := range []struct {
		name, text string
		spaces     int64
	}{
		{"layer.tar", string(layer), 0},
		{"config.json", config, h.spaces},
		{"manifest.json", cmp.Or(h.list, `[{"Config":"config.json","RepoTags":["swarm/hostile:1"],"Layers":["layer.tar"]}]`), 0},
	} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.text)) + e.spaces}))
		_, werr := io.Copy(w, io.MultiReader(strings.NewReader(e.text), io.LimitReader(blanks{}, e.spaces)))
		err = errors.Join(err, werr)
	}
	for i := range h.links {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: fmt.Sprint("link", i), Linkname: "layer.tar"}))
	}
	return errors.Join(err, w.Close(), z.Close())
}

// blanks is an endless reader of spaces.
type blanks struct{}

func (blanks) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

package image_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

// Images are in the order of the names that are shown. Every output has the same id for an image.
func TestImages_OrderAndID(t *testing.T) {
	s := &clitest.Server{}
	for _, name := range []string{"docker.io/library/web:1", "docker.io/library/busybox:1", "docker.io/swarm/hello:1", "a.example/z:1", "docker.io/library/vol:1"} {
		s.Images = append(s.Images, &swarmv1.ImageInfo{Image: &swarmv1.Image{Id: "row", Name: name, Digest: "sha256:0123456789abcdef"}})
	}
	if got := (clitest.Run{Server: s}).Run(t, "image", "ls", "--format", "{{.Repository}}"); got.Out != "a.example/z\nbusybox\nswarm/hello\nvol\nweb\n" {
		t.Errorf("order: got %+v", got)
	}
	for line, want := range map[string]string{
		"image ls -q --no-trunc":               strings.Repeat("sha256:0123456789abcdef\n", len(s.Images)),
		"image ls -q":                          strings.Repeat("0123456789ab\n", len(s.Images)),
		"image inspect web:1 --format {{.ID}}": "sha256:0123456789abcdef\n",
		"image rm web:1":                       "Untagged: web:1\n",
	} {
		if got := (clitest.Run{Server: s}).Run(t, strings.Fields(line)...); got.Out != want {
			t.Errorf("%s: got %+v, want %q", line, got, want)
		}
	}
}

func TestImageLoad(t *testing.T) {
	archive := bytes.Repeat([]byte("0123456789abcdef"), 100_000) // three messages and a bit
	file := filepath.Join(t.TempDir(), "app.tar")
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]struct {
		run  clitest.Run
		args []string
		size int64
	}{
		"stdin": {clitest.Run{Stdin: bytes.NewReader(archive)}, []string{"image", "load"}, 0},
		"file":  {clitest.Run{}, []string{"image", "load", "-i", file, "--name", "app:1"}, int64(len(archive))},
	} {
		s := &clitest.Server{}
		r.run.Server = s
		got := r.run.Run(t, r.args...)
		if got.Code != 0 || got.Out != "Loaded image: app:1\n" || !strings.Contains(got.ErrOut, "reading archive\n") {
			t.Errorf("%s: got %+v", name, got)
		}
		if !bytes.Equal(s.Loaded, archive) || s.LoadReq.Size != r.size {
			t.Errorf("%s: %d bytes arrived of size %d, want %d of %d", name, len(s.Loaded), s.LoadReq.Size, len(archive), r.size)
		}
	}
}

// endless is an archive that never ends, as one that somebody writes slowly.
type endless struct{ first bool }

func (e *endless) Read(p []byte) (int, error) {
	if !e.first {
		e.first = true
		return copy(p, "not a tar"), nil
	}
	return len(p), nil
}

func TestImageLoadRefused(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args, want string
	}{
		{"-i /nonexistent", "archive /nonexistent cannot be read: no such file or directory"},
		{"-i " + dir, "is a folder"},
		{"-i " + empty, "is empty"},
		{"--name NAME", `image "NAME" is not a valid reference`},
		{"", "the archive is empty"},
	} {
		clitest.Refused(t, tc.args, clitest.Run{Server: &clitest.Server{}}.Run(t, append([]string{"image", "load"}, strings.Fields(tc.args)...)...), tc.want)
	}
	got := clitest.Run{Server: &clitest.Server{}, Stdin: &endless{}}.Run(t, "image", "load")
	clitest.Refused(t, "by the server", got, "archive is neither an OCI nor a Docker archive")
}

func TestImageLs(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &clitest.Server{Images: []*swarmv1.ImageInfo{
		{NodeIds: []string{"a", "b", "c"}, Image: &swarmv1.Image{
			Id: "i1", Name: "registry.example.org/app:1", Digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", Size: 5_500_000,
			Loaded: true, Meta: &swarmv1.Meta{CreatedAt: timestamppb.New(now.Add(-2 * time.Hour))},
		}},
		{Image: &swarmv1.Image{Id: "i2", Name: "docker.io/library/redis:7", Digest: "sha256:abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789"}},
	}}
	for name, args := range map[string][]string{
		"image-ls": {"image", "ls"}, "image-ls-digests": {"image", "ls", "--digests", "redis"}, "image-ls-quiet": {"image", "ls", "-q", "redis:7"}, "image-ls-json": {"image", "ls", "--format", "json"},
	} {
		got := clitest.Run{Server: s, Now: now}.Run(t, args...)
		if got.Code != 0 {
			t.Errorf("%s: got %+v", name, got)
		}
		clitest.Golden(t, name+".golden", got.Out)
	}
}

//go:build linux

package containerd_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	imagev1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"swarm/containerd"
	"swarm/containerd/containerdtest"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// load imports an image with a static busybox and further files.
func (n *node) load(ref string, config imagev1.Config, files ...containerdtest.File) {
	n.T.Helper()
	program, err := exec.LookPath("busybox")
	if err != nil {
		n.T.Skip(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		n.T.Fatal(err)
	}
	base := []containerdtest.File{
		{Header: tar.Header{Name: "bin", Typeflag: tar.TypeDir, Mode: 0o755}},
		{Header: tar.Header{Name: "bin/sh", Mode: 0o755}, Body: data},
	}
	archive, err := containerdtest.Archive(ref, config, append(base, files...)...)
	if err != nil {
		n.T.Fatal(err)
	}
	if _, err := n.client.Import(n.Ctx, bytes.NewReader(archive)); err != nil {
		n.T.Fatal(err)
	}
}

// The content of an image is not trusted: it is refused in one short line, or does no harm.
func TestRuntime_HostileImages(t *testing.T) {
	n := newNode(t)
	entry := func(h tar.Header, body ...byte) containerdtest.File {
		h.Mode = 0o755
		return containerdtest.File{Header: h, Body: body}
	}
	many := map[string]struct{}{}
	for i := range 1000 {
		many[fmt.Sprintf("/v%d", i)] = struct{}{}
	}
	var env []string
	for i := range 5000 {
		env = append(env, fmt.Sprintf("NAME%d=%s", i, strings.Repeat("x", 64)))
	}
	for i, c := range []struct {
		what   string
		config imagev1.Config
		files  []containerdtest.File
		says   string // of the refusal; empty: it runs
	}{
		{"users in a named pipe", imagev1.Config{}, []containerdtest.File{entry(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeFifo})}, "/etc/passwd is a named pipe"},
		{"groups in a named pipe", imagev1.Config{}, []containerdtest.File{entry(tar.Header{Name: "etc/group", Typeflag: tar.TypeFifo})}, "/etc/group is a named pipe"},
		{"users in a device", imagev1.Config{}, []containerdtest.File{entry(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 5})}, "/etc/passwd is a device"},
		{"users of the host", imagev1.Config{}, []containerdtest.File{entry(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeSymlink, Linkname: "/proc/self/root/etc/passwd"})}, ""},
		{"many users", imagev1.Config{}, []containerdtest.File{entry(tar.Header{Name: "etc/passwd"}, make([]byte, 5<<20)...)}, "at most 4194304 are read"},
		{"a long user", imagev1.Config{User: strings.Repeat("u", 1<<20)}, nil, "its user has 1048576 bytes"},
		{"an odd user", imagev1.Config{User: "a\x1b[2J\nb"}, nil, "the image does not have it"},
		{"many variables", imagev1.Config{Env: env}, nil, ""},
		{"odd variables", imagev1.Config{Env: []string{"", "=", "=x", "A", "A="}}, nil, ""},
		{"many volumes", imagev1.Config{Volumes: many}, nil, "it declares 1000 volumes"},
		{"a volume for the kernel's files", imagev1.Config{Volumes: map[string]struct{}{"/v/../proc": {}}}, nil, "where the kernel's own files are"},
		{"a volume at a link to them", imagev1.Config{Volumes: map[string]struct{}{"/v/a/fs": {}}}, []containerdtest.File{
			entry(tar.Header{Name: "v", Typeflag: tar.TypeSymlink, Linkname: "w"}), entry(tar.Header{Name: "w/a", Typeflag: tar.TypeSymlink, Linkname: "../../sys"}),
		}, "where the kernel's own files are"},
		{"a volume at a link to itself", imagev1.Config{Volumes: map[string]struct{}{"/v": {}}}, []containerdtest.File{entry(tar.Header{Name: "v", Typeflag: tar.TypeSymlink, Linkname: "v"})}, "too many levels of symbolic links"},
		{"a volume for devices", imagev1.Config{Volumes: map[string]struct{}{"/d": {}}}, []containerdtest.File{entry(tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "/dev"})}, "where the kernel's own files are"},
		{"a volume for shared memory", imagev1.Config{Volumes: map[string]struct{}{"/dev/shm": {}}}, nil, ""},
		{"a volume for everything", imagev1.Config{Volumes: map[string]struct{}{"/d": {}}}, []containerdtest.File{entry(tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "."})}, "where the kernel's own files are"},
		{"volumes outside", imagev1.Config{Volumes: map[string]struct{}{"/": {}, "..": {}, "../../x": {}, "": {}}}, nil, ""},
		{"a volume at a link out", imagev1.Config{Volumes: map[string]struct{}{"/v": {}}}, []containerdtest.File{entry(tar.Header{Name: "v", Typeflag: tar.TypeSymlink, Linkname: "/etc"})}, ""},
		{"a folder outside", imagev1.Config{WorkingDir: "../../../w"}, nil, ""},
		{"a folder at a link out", imagev1.Config{WorkingDir: "/w/made"}, []containerdtest.File{entry(tar.Header{Name: "w", Typeflag: tar.TypeSymlink, Linkname: n.Dir})}, "file exists"},
	} {
		t.Run(c.what, func(t *testing.T) {
			n.T = t
			defer func() { n.T = t }()
			ref := fmt.Sprintf("example.com/hostile%d:1", i)
			n.load(ref, c.config, c.files...)
			task := n.container("exit 0", func(w *engine.Container) { w.Spec().Image = ref })
			err := n.runtime.Prepare(n.Ctx, task)
			if err == nil {
				_, err = n.runtime.Start(n.Ctx, task.Task.GetId())
			}
			switch {
			case c.says == "" && err != nil:
				t.Errorf("got %v, want that it runs", err)
			case c.says != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.says)):
				t.Errorf("got %v, want invalid argument: %s", err, c.says)
			case err != nil && (len(err.Error()) > 1024 || strings.ContainsAny(err.Error(), "\n\x1b")):
				t.Errorf("got %q, want one short line", err)
			case err == nil:
				if e := n.wait(task.Task.GetId()); e.Code != 0 {
					t.Errorf("ended with %+v", e)
				}
			}
			if err := n.runtime.Remove(n.Ctx, task.Task.GetId()); err != nil {
				t.Error(err)
			}
		})
	}
	n.T = t
	if _, err := os.Lstat(filepath.Join(n.Dir, "made")); err == nil {
		t.Error("a working folder was made on the host")
	}
}

// containerd unpacks layers. No entry of a layer may end up outside of the image.
func TestRuntime_HostileLayers(t *testing.T) {
	n := newNode(t)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := func(name, to string) containerdtest.File {
		return containerdtest.File{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}}
	}
	file := func(name string) containerdtest.File {
		return containerdtest.File{Header: tar.Header{Name: name, Mode: 0o644}, Body: []byte("planted")}
	}
	up := strings.Repeat("../", 12)
	for i, files := range [][]containerdtest.File{
		{file(up + outside + "/up")},
		{file(outside + "/absolute")},
		{link("l", outside), file("l/through")},
		{link("l", up+outside), file("l/relative")},
		{link("a", "b"), link("b", outside), file("a/chain")},
		{{Header: tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: up + outside + "/secret"}}},
		{link("l", outside+"/replaced"), file("l")},
		{link("etc", outside), file("etc/passwd")},
		{link("l", outside), {Header: tar.Header{Name: "l/.wh.secret", Mode: 0o644}}},
		{link("l", outside), {Header: tar.Header{Name: "l/.wh..wh..opq", Mode: 0o644}}},
	} {
		ref := fmt.Sprintf("example.com/layer%d:1", i)
		n.load(ref, imagev1.Config{}, files...)
		task := n.container("cat /hard; exit 0", func(w *engine.Container) { w.Spec().Image = ref })
		err := n.runtime.Prepare(n.Ctx, task)
		t.Logf("layer %d: %v", i, err)
		if err == nil {
			if out, _, _ := n.output(task); strings.Contains(out, "of the host") {
				t.Errorf("layer %d: the container reads a file of the host", i)
			}
		}
		entries, rerr := os.ReadDir(outside)
		text, serr := os.ReadFile(filepath.Join(outside, "secret"))
		if rerr != nil || serr != nil || len(entries) != 1 || string(text) != "of the host" {
			t.Fatalf("layer %d: outside are %v, the secret is %q (%v, %v)", i, entries, text, rerr, serr)
		}
	}
}

// part returns a mount of a part of the volume named shared.
func part(c *engine.Container) {
	c.Spec().Mounts = []*swarmv1.Mount{{
		Type: swarmv1.Mount_VOLUME, Source: "shared", Target: "/part", VolumeOptions: &swarmv1.VolumeOptions{Subpath: "sub"},
	}}
}

func (n *node) data(volume string) string {
	return filepath.Join(n.config().StateDir, "volumes", volume, "_data")
}

// staged lists the mounts in staging folders, and what is left of these folders.
func (n *node) staged() []string {
	n.T.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		n.T.Fatal(err)
	}
	root := filepath.Join(n.config().RunDir, "staged")
	var found []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, " "+root+"/") {
			found = append(found, line)
		}
	}
	left, _ := filepath.Glob(filepath.Join(root, "*"))
	dots, _ := filepath.Glob(filepath.Join(root, ".*"))
	return append(found, append(left, dots...)...)
}

// A part of a volume stays a part of the volume even if a container replaces it by a link to the
// host.
func TestRuntime_PartsOfVolumesStayInThem(t *testing.T) {
	n := newNode(t)
	outside := t.TempDir()
	within := n.container("echo in > /part/mark", part)
	n.output(within)
	if text := n.read(filepath.Join(n.data("shared"), "sub/mark")); text != "in\n" {
		t.Errorf("the part has %q", text)
	}
	if left := n.staged(); len(left) > 0 {
		t.Errorf("staging folders remain: %v", left)
	}
	// Between Prepare and Start another container replaces the part.
	late := n.container("echo out > /part/mark", part)
	if err := n.runtime.Prepare(n.Ctx, late); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(n.data("shared"), "sub")
	if err := errors.Join(os.Rename(sub, sub+"-was"), os.Symlink(outside, sub)); err != nil {
		t.Fatal(err)
	}
	if _, err := n.runtime.Start(n.Ctx, late.Task.GetId()); !errdefs.IsInvalidArgument(err) {
		t.Errorf("start with a link to the host: got %v, want invalid argument", err)
	}
	// A link within the volume is followed.
	if err := errors.Join(os.Remove(sub), os.Symlink("/sub-was", sub)); err != nil {
		t.Fatal(err)
	}
	linked := n.container("cat /part/mark", part)
	if out, stderr, _ := n.output(linked); out != "in\n" {
		t.Errorf("through a link within the volume: got %q, %q", out, stderr)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside are %v, %v", entries, err)
	}
	if err := n.runtime.Remove(n.Ctx, late.Task.GetId()); err != nil {
		t.Fatal(err)
	}
	if left := n.staged(); len(left) > 0 {
		t.Errorf("staging folders remain: %v", left)
	}
}

// A bind source in a volume is looked up as a part of the volume, however its path is written.
func TestRuntime_BindSourcesInVolumes(t *testing.T) {
	n := newNode(t)
	outside := t.TempDir()
	data := n.data("bound")
	alias := filepath.Join(t.TempDir(), "alias")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(data, "dir"), 0o755), os.WriteFile(filepath.Join(data, "dir/file"), []byte("text\n"), 0o644),
		os.Symlink("dir", filepath.Join(data, "within")), os.Symlink(outside, filepath.Join(data, "out")),
		os.Symlink(filepath.Join(data, "out"), alias), os.WriteFile(filepath.Join(outside, "file"), []byte("of the host\n"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	bind := func(source string, create bool) func(*engine.Container) {
		return func(c *engine.Container) {
			c.Spec().Mounts = []*swarmv1.Mount{{
				Type: swarmv1.Mount_BIND, Source: source, Target: "/m", BindOptions: &swarmv1.BindOptions{CreateMountpoint: create},
			}}
		}
	}
	for _, c := range []struct {
		source string
		create bool
		want   string // empty: it is refused
	}{
		{data + "/dir", false, "text\n"},
		{data + "/within", false, "text\n"},
		{data + "/dir/file", false, "text\n"},
		{data + "/out", false, ""},
		{data + "/out", true, ""},
		{alias, false, ""},
		{data + "/dir/../out", false, ""},
		{data + "/absent", false, ""},
		{data + "/made/deep", true, "nothing\n"},
		{data, false, "top\n"},
	} {
		task := n.container("[ -f /m ] && exec cat /m; [ -d /m/dir ] && exec echo top; cat /m/file || echo nothing", bind(c.source, c.create))
		err := n.runtime.Prepare(n.Ctx, task)
		switch {
		case c.want == "" && !errdefs.IsInvalidArgument(err):
			t.Errorf("%s (create %v): got %v, want invalid argument", c.source, c.create, err)
		case c.want != "" && err != nil:
			t.Errorf("%s (create %v): %v", c.source, c.create, err)
		case c.want != "":
			if out, stderr, _ := n.output(task); out != c.want {
				t.Errorf("%s (create %v): got %q, %q, want %q", c.source, c.create, out, stderr, c.want)
			}
		}
		if err := n.runtime.Remove(n.Ctx, task.Task.GetId()); err != nil {
			t.Fatal(err)
		}
	}
	if left := n.staged(); len(left) > 0 {
		t.Errorf("staging folders remain: %v", left)
	}
}

// A daemon that is killed after the set-up of a container leaves the staging folder to the next
// daemon.
func TestRuntime_RecoverRemovesStagingFolders(t *testing.T) {
	n := newNode(t)
	c := n.container("sleep 1000", part)
	n.run(c)
	// These are staging folders as a killed daemon leaves them: of a container that runs, one that
	// is half removed, and one that is half made.
	staged := filepath.Join(n.config().RunDir, "staged")
	for _, dir := range []string{c.Task.GetId(), ".old-1/task9"} {
		at := filepath.Join(staged, dir, "0")
		if err := errors.Join(os.MkdirAll(at, 0o700), unix.Mount(n.data("shared"), at, "", unix.MS_BIND, "")); err != nil {
			t.Fatal(err)
		}
	}
	fill := filepath.Join(n.config().StateDir, "volumes/shared/.fill-1/copy")
	open := filepath.Join(n.config().StateDir, "volumes/shared")
	if err := errors.Join(os.MkdirAll(fill, 0o755), os.MkdirAll(filepath.Join(staged, ".old-2"), 0o700), os.Chmod(open, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := n.newRuntime().Recover(); err != nil {
		t.Fatal(err)
	}
	if left := n.staged(); len(left) > 0 {
		t.Errorf("staging folders remain: %v", left)
	}
	if _, err := os.Stat(filepath.Dir(fill)); err == nil {
		t.Error("a copy that was not finished remains")
	}
	if info, err := os.Stat(open); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder above the volume's data: %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(n.data("shared"), "sub")); err != nil {
		t.Errorf("the volume's part: %v", err)
	}
}

// A task that is stopped during the copy of an image's files leaves none of them.
func TestRuntime_CopyEndsWithItsContext(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithCancel(n.Ctx)
	cancel()
	c := n.container("true", func(c *engine.Container) {
		c.Spec().Mounts = []*swarmv1.Mount{{Type: swarmv1.Mount_VOLUME, Source: "copied", Target: "/data"}}
	})
	if err := n.runtime.Prepare(ctx, c); err == nil {
		t.Error("prepared after its context had ended")
	}
	left, _ := filepath.Glob(filepath.Join(n.config().StateDir, "volumes/copied/.fill-*"))
	if len(left) > 0 {
		t.Errorf("copies remain: %v", left)
	}
}

// An image that this node holds but has not unpacked, such as one for another platform, is unpacked
// when a container needs it.
func TestRuntime_UnpackingEndsWhenTheDiskFills(t *testing.T) {
	n := newNode(t)
	const ref = "example.com/bomb:1"
	n.load(ref, imagev1.Config{}, containerdtest.File{Header: tar.Header{Name: "zeros", Mode: 0o600}, Body: make([]byte, 256<<20)})
	full := errdefs.ErrResourceExhausted.WithMessage("its disk has 1 MB left")
	r, err := containerd.New(n.config(), containerd.Deps{Log: n.Log(), Client: n.client, Room: func(bytes int64) error {
		if bytes > 0 {
			return full
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	task := n.container("exit 0", func(w *engine.Container) { w.Spec().Image = ref })
	if err := r.Prepare(n.Ctx, task); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), full.Error()) {
		t.Errorf("got %v, want %v", err, full)
	}
	// With enough room it is unpacked.
	if err := n.runtime.Prepare(n.Ctx, task); err != nil {
		t.Error(err)
	}
	if err := n.runtime.Remove(n.Ctx, task.Task.GetId()); err != nil {
		t.Error(err)
	}
}

// An image may declare volumes inside volumes. Each receives a copy of the next one.
func TestRuntime_CopyOfVolumesEndsWhenTheDiskFills(t *testing.T) {
	n := newNode(t)
	const ref, size = "example.com/volumes:1", 32 << 20
	dir, volumes := "", map[string]struct{}{}
	var files []containerdtest.File
	for range 10 {
		dir += "/v"
		volumes[dir] = struct{}{}
		files = append(files, containerdtest.File{Header: tar.Header{Name: dir[1:] + "/", Typeflag: tar.TypeDir, Mode: 0o700}})
	}
	files = append(files, containerdtest.File{Header: tar.Header{Name: dir[1:] + "/zeros", Mode: 0o600}, Body: make([]byte, size)})
	n.load(ref, imagev1.Config{Volumes: volumes}, files...)
	task := n.container("exit 0", func(w *engine.Container) { w.Spec().Image = ref })
	id := task.Task.GetId()
	if err := n.runtime.Prepare(n.Ctx, task); err != nil {
		t.Fatal(err)
	}
	// The copies count as written by the container.
	if sizes, err := n.runtime.ContainerSizes(n.Ctx); err != nil || sizes[id] < 10*size {
		t.Errorf("the container takes %d bytes, %v, want its ten volumes of %d", sizes[id], err, size)
	}
	if err := n.runtime.Remove(n.Ctx, id); err != nil {
		t.Fatal(err)
	}
	full := errdefs.ErrResourceExhausted.WithMessage("its disk has 1 MB left")
	r, err := containerd.New(n.config(), containerd.Deps{Log: n.Log(), Client: n.client, Room: func(bytes int64) error {
		if bytes > 0 {
			return full
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Prepare(n.Ctx, task); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), full.Error()) {
		t.Errorf("got %v, want %v", err, full)
	}
	if err := r.Remove(n.Ctx, id); err != nil {
		t.Error(err)
	}
}

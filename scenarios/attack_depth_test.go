package scenarios

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fillsRun has containers write as much as they can to the files of their /etc, which are on the
// host's /run.
func (a filesAttack) fillsRun() {
	for _, c := range []struct {
		name, file string
		most       int
		args       []string
	}{
		{"filler", "/etc/resolv.conf", 128 << 10, nil},
		{"filler-hosts", "/etc/hosts", 128 << 10, nil},
		{"filler-read-only", "/etc/hostname", 0, []string{"--read-only"}},
	} {
		a.create(c.name, append(c.args, "swarm/hello:1", "-fill", c.file)...)
		a.eventually("the end of the filling", func() error {
			out, err := a.run("service", "logs", "--raw", c.name)
			_, after, found := strings.Cut(out, "filled ")
			if err != nil || !found {
				return fmt.Errorf("%q %w", out, err)
			}
			written := 0
			if _, err := fmt.Sscan(after, &written); err != nil {
				return err
			}
			if written > c.most {
				a.t.Errorf("a container wrote %d bytes to its %s, want %d at most", written, c.file, c.most)
			}
			a.t.Logf("%s took %d bytes: %s", c.file, written, strings.TrimSpace(after))
			return nil
		})
		a.swarm("service", "rm", c.name)
	}
	a.eventually("the end of the files of /etc", func() error {
		left, err := os.ReadDir(filepath.Join(a.victim.RunDir, "etc"))
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d folders are left", len(left))
		}
		return err
	})
}

// writesBelow gives a container a read-only folder in which another file system is mounted.
func (a filesAttack) writesBelow() {
	dir := a.t.TempDir()
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		a.t.Fatal(err)
	}
	err := a.playground.Do(a.victim.Name, func() error { return unix.Mount("tmpfs", below, "tmpfs", 0, "size=64k") })
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(below, unix.MNT_DETACH); err != nil {
			a.t.Error(err)
		}
	}()
	a.create("writer", "--restart-condition", "none", "--mount", "type=bind,source="+dir+",target=/mnt,readonly", "swarm/hello:1", "-touch", "/mnt/below/here")
	a.eventually("the writer's end", func() error {
		rows, err := a.ps("writer")
		if err != nil || len(rows) != 1 || strings.HasPrefix(rows[0].state, "Running") {
			if _, err := os.Stat(filepath.Join(below, "here")); err == nil {
				a.t.Error("the container wrote below a read-only mount")
				return nil
			}
			return fmt.Errorf("%v %w", rows, err)
		}
		if !strings.HasPrefix(rows[0].state, "Failed") {
			return fmt.Errorf("%v", rows)
		}
		a.t.Logf("the writer: %v", rows[0])
		return nil
	})
	a.swarm("service", "rm", "writer")
}

// deepFolders has containers nest folders, deeper than the daemon's limit of file descriptors, in a
// volume and in their own file system.
func (a filesAttack) deepFolders() {
	const levels = 25_000
	tasks := map[string]string{}
	for name, args := range map[string][]string{
		"deep-volume": {"--mount", "type=volume,target=/v", "swarm/hello:1", "-nest-in", "/v"},
		"deep-root":   {"swarm/hello:1", "-nest-in", "/"},
	} {
		a.create(name, append(args, "-nest", fmt.Sprint(levels))...)
	}
	for _, name := range []string{"deep-volume", "deep-root"} {
		tasks[name] = a.running(name).id
		a.eventually("the nested folders", func() error {
			out, err := a.run("service", "logs", "--raw", name)
			if err == nil && !strings.Contains(out, "nested") {
				err = errors.New("it still nests")
			}
			return err
		})
	}
	began := time.Now()
	if out, err := a.run("system", "df", "--node", a.victim.Name); err != nil || !strings.Contains(out, "Containers") {
		a.t.Errorf("no sizes beside deep folders: %v\n%s", err, out)
	}
	a.t.Logf("sizes beside %d levels took %v", levels, time.Since(began).Round(10*time.Millisecond))
	began = time.Now()
	a.swarm("service", "rm", "deep-volume", "deep-root")
	a.eventually("the end of the deep folders", func() error {
		for name, id := range tasks {
			dir := filepath.Join(a.victim.StateDir, "tasks", id)
			if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s of %s is there still: %w", dir, name, err)
			}
		}
		left, err := a.run("system", "df", "--node", a.victim.Name, "--format", "{{.Type}}={{.TotalCount}}")
		if err == nil && !strings.Contains(left, "Containers=0") {
			err = errors.New(left)
		}
		return err
	})
	a.t.Logf("%d levels in a volume and in a root were removed in %v", levels, time.Since(began).Round(10*time.Millisecond))
}

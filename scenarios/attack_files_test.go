package scenarios

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"swarm/dev"
)

// TestAttackFiles attacks a host's files by a hostile image, by a hostile container, and with a
// stolen disk.
func TestAttackFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	t.Parallel()
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{
		Nodes: 2, Managers: 1, DaemonArgs: []string{"--insecure-registry", "0.0.0.0/0"},
	})
	a := filesAttack{testCluster: c, victim: c.hosts[1]}
	for _, step := range []struct {
		name string
		run  func(filesAttack)
	}{
		{"a swapped folder leads to the host", filesAttack.swappedFolder},
		{"users of the host run a volume's setuid program", filesAttack.setuid},
		{"an image's named pipe holds the node", filesAttack.namedPipe},
		{"files of etc fill the host's run folder", filesAttack.fillsRun},
		{"a read-only bind is written below", filesAttack.writesBelow},
		{"deep folders exhaust the daemon", filesAttack.deepFolders},
		{"a worker's disk has registry passwords", filesAttack.registryPassword},
	} {
		t.Run(step.name, func(t *testing.T) {
			sub := a
			sub.testCluster = c.in(t)
			step.run(sub)
			sub.allReady()
		})
	}
}

// filesAttack attacks one host, which is a worker.
type filesAttack struct {
	*testCluster
	victim dev.Host
}

// create creates a service on the attacked host, and does not wait for its tasks.
func (a filesAttack) create(name string, args ...string) {
	a.t.Helper()
	a.swarm(append([]string{"service", "create", "--detach", "--name", name, "--constraint", "node.hostname==" + a.victim.Name}, args...)...)
}

// swappedFolder has a container replace a folder of a volume by a symbolic link to a folder of the
// host, while containers start that mount the folder. Each of these leaves a file in the folder
// that it got. The daemon is killed once meanwhile.
func (a filesAttack) swappedFolder() {
	const starts = 24
	outside := a.t.TempDir()
	a.create("swapper", "--mount", "type=volume,source=shared,target=/v", "swarm/hello:1", "-swap", "/v/sub", "-swap-link", outside)
	a.running("swapper")
	a.create("led", "--replicas", "4", "--restart-delay", "10ms", "--mount", "type=volume,source=shared,target=/data,volume-subpath=sub",
		"swarm/hello:1", "-touch", "/data/here", "-listen", "", "-exit-after", "1ms")
	ran, refused := map[string]bool{}, map[string]bool{}
	led := func() bool {
		_, err := os.Stat(filepath.Join(outside, "here"))
		return err == nil
	}
	await := func(n int) {
		a.t.Helper()
		a.eventually("starts beside the swapper", func() error {
			rows, err := a.ps("led")
			for _, r := range rows {
				switch {
				case strings.HasPrefix(r.state, "Complete"):
					ran[r.id] = true
				case strings.HasPrefix(r.state, "Failed"), strings.HasPrefix(r.state, "Rejected"):
					refused[r.id] = true
				}
			}
			if len(ran) < n && !led() {
				return fmt.Errorf("%d of %d ran, %d were refused: %v %w", len(ran), n, len(refused), rows, err)
			}
			return nil
		})
	}
	await(starts / 2)
	if err := a.playground.Kill(a.ctx, a.victim.Name); err != nil {
		a.t.Fatal(err)
	}
	a.start(a.victim)
	await(starts)
	a.swarm("service", "rm", "led", "swapper")
	if led() {
		a.t.Errorf("after %d starts a container followed the link to %s of the host and wrote there", len(ran)+len(refused), outside)
	}
	a.t.Logf("%d containers ran and %d were refused beside one that swaps their folder", len(ran), len(refused))
	a.eventually("the end of all staging", func() error {
		text, err := os.ReadFile("/proc/self/mountinfo")
		if bytes.Contains(text, []byte(filepath.Join(a.victim.RunDir, "staged"))) {
			return fmt.Errorf("staging folders still have mounts")
		}
		return err
	})
}

// setuid has a container leave a program in its volume that runs as root, and starts the program as
// the user nobody.
func (a filesAttack) setuid() {
	// The folders have the permissions of an old installation, which the daemon must correct.
	for _, dir := range []string{a.victim.StateDir, a.victim.RunDir} {
		if err := os.Chmod(dir, 0o711); err != nil {
			a.t.Fatal(err)
		}
	}
	if err := a.playground.Stop(a.ctx, a.victim.Name); err != nil {
		a.t.Fatal(err)
	}
	a.start(a.victim)
	a.create("planter", "--mount", "type=volume,source=planted,target=/v", "swarm/hello:1", "-copy-setuid", "/v/suid")
	a.running("planter")
	program := filepath.Join(a.victim.StateDir, "volumes", "planted", "_data", "suid")
	a.eventually("the program in the volume", func() error {
		info, err := os.Stat(program)
		if err == nil && info.Mode()&fs.ModeSetuid == 0 {
			err = fmt.Errorf("it is %v", info.Mode())
		}
		return err
	})
	out, err := asNobody(nil, program, "-id")
	if err == nil {
		a.t.Errorf("the user nobody ran %s as user %s", program, strings.TrimSpace(out))
	}
	a.t.Logf("the user nobody runs the program: %v", err)
	files := a.files()
	reached, _ := asNobody(files, "xargs", "-0", "stat", "-c", "%n") // xargs fails for files that nobody cannot reach.
	if reached != "" {
		a.t.Errorf("the user nobody reaches files of the daemon, want none:\n%s", reached)
	}
	a.t.Logf("of %d files of the daemon the user nobody reaches %d", bytes.Count(files, []byte{0}), strings.Count(reached, "\n"))
	a.swarm("service", "rm", "planter")
}

// files lists every regular file of the attacked host's daemon and its containers, each followed by
// a zero byte. The list is without the pins of network namespaces, which are not regular files.
func (a filesAttack) files() []byte {
	var list []byte
	for _, root := range []string{a.victim.StateDir, a.victim.RunDir} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error { // Files may be removed meanwhile.
			if err == nil && d.Type().IsRegular() {
				list = append(append(list, path...), 0)
			}
			return nil
		})
	}
	return list
}

// asNobody runs a program on the host as the user nobody.
func asNobody(stdin []byte, argv ...string) (string, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdin = "/", bytes.NewReader(stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.Output()
	return string(out), err
}

// namedPipe starts services whose image has a named pipe in place of /etc/passwd.
func (a filesAttack) namedPipe() {
	archive := filepath.Join(a.t.TempDir(), "pipe.tar")
	hello := filepath.Join(a.images, "hello")
	out, err := exec.Command("go", "run", "./mkimage", "-o", archive, "-t", "evil/pipe:1", "-fifo", "/etc/passwd", hello).CombinedOutput()
	if err != nil {
		a.t.Fatalf("make image: %v\n%s", err, out)
	}
	a.swarm("image", "load", "-i", archive)
	a.create("pipe", "--replicas", "8", "evil/pipe:1")
	a.eventually("tasks with the pipe", func() error {
		rows, err := a.ps("pipe")
		preparing := 0
		for _, r := range rows {
			if strings.HasPrefix(r.state, "Preparing") || strings.HasPrefix(r.state, "Rejected") {
				preparing++
			}
		}
		if preparing < 8 {
			return fmt.Errorf("%v %w", rows, err)
		}
		return nil
	})
	a.create("good", "swarm/hello:1")
	a.runs("good")
	rows, err := a.ps("pipe")
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Logf("the service with the named pipe: %v", rows[0])
	a.swarm("service", "rm", "pipe")
	a.ends()
	a.swarm("service", "rm", "good")
}

// runs checks that a service runs although the service with the named pipe hangs, and continues if
// it does not.
func (a filesAttack) runs(service string) {
	a.t.Helper()
	began := time.Now()
	for {
		rows, err := a.ps(service)
		took := time.Since(began).Round(10 * time.Millisecond)
		if err == nil && len(rows) == 1 && strings.HasPrefix(rows[0].state, "Running") {
			a.t.Logf("service %s runs %v after the service with the named pipe was created", service, took)
			return
		}
		if took > 30*time.Second {
			a.t.Errorf("service %s does not run %v after the service with the named pipe was created: %v %v", service, took, rows, err)
			return
		}
		<-time.After(100 * time.Millisecond) // the interval of the poll
	}
}

// ends has the daemon of the attacked host shut down, and starts it again.
func (a filesAttack) ends() {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.ctx, 20*time.Second)
	defer cancel()
	began := time.Now()
	err := a.playground.Stop(ctx, a.victim.Name)
	if err != nil || ctx.Err() != nil {
		a.t.Errorf("the daemon does not end on SIGTERM: %v", err)
		if err := a.playground.Kill(a.ctx, a.victim.Name); err != nil {
			a.t.Fatal(err)
		}
	}
	a.t.Logf("the daemon ended %v after SIGTERM", time.Since(began).Round(10*time.Millisecond))
	a.start(a.victim)
}

// registryPassword runs a service from a registry that requires a login, and searches the worker's
// disk for the password.
func (a filesAttack) registryPassword() {
	const user, password = "jane", "s3cret-of-the-registry"
	registry := a.registry(user + ":" + password)
	ref := registry + "/team/hello:1"
	home := a.t.TempDir()
	login := func(args ...string) {
		a.t.Helper()
		cmd := exec.CommandContext(a.ctx, a.binary, append([]string{"-H", "unix://" + a.hosts[0].Socket}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+home)
		cmd.Stdin = strings.NewReader(password)
		if out, err := cmd.CombinedOutput(); err != nil {
			a.t.Fatalf("swarm %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	login("login", "-u", user, "--password-stdin", registry)
	login("image", "tag", "swarm/hello:1", ref)
	login("image", "push", ref)
	login("image", "rm", ref)
	login("service", "create", "--detach", "--with-registry-auth", "--name", "private", "--constraint", "node.hostname=="+a.victim.Name, ref)
	was := a.running("private").id
	a.scan(user, password)

	// The task goes on while the daemon is down, and when it starts again without a manager.
	for _, host := range []string{a.victim.Name, a.hosts[0].Name} {
		if err := a.playground.Stop(a.ctx, host); err != nil {
			a.t.Fatal(err)
		}
	}
	a.start(a.victim)
	a.scan(user, password)
	a.start(a.hosts[0])
	if is := a.running("private").id; is != was {
		a.t.Errorf("task %s was replaced by %s", was, is)
	}
	// The worker has the credential again.
	a.swarm("service", "scale", "--detach", "private=2")
	a.eventually("two tasks from the registry", func() error {
		rows, err := a.ps("private")
		for _, r := range rows {
			if !strings.HasPrefix(r.state, "Running") {
				return fmt.Errorf("%v", rows)
			}
		}
		if len(rows) != 2 {
			return fmt.Errorf("%v %w", rows, err)
		}
		return nil
	})
	a.scan(user, password)
	a.swarm("service", "rm", "private")
}

// registry starts a registry on the manager's host, where every host reaches it.
func (a filesAttack) registry(login string) string {
	a.t.Helper()
	h := a.hosts[0]
	address := net.JoinHostPort(h.Address.String(), "5000")
	cmd := exec.Command(filepath.Join(a.images, "registry"), "-listen", address, "-user", login)
	if err := a.playground.Do(h.Name, cmd.Start); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // Its exit status does not matter.
	})
	a.eventually("the registry", func() error {
		return a.playground.Do(h.Name, func() error {
			conn, err := net.DialTimeout("tcp", address, time.Second)
			if err != nil {
				return err
			}
			return conn.Close()
		})
	})
	return address
}

// scan searches all files that the attacked host's daemon has written, and the manager's log, for a
// registry's login.
func (a filesAttack) scan(user, password string) {
	a.t.Helper()
	// The search covers each form of a login. Of base64 it takes the part that does not depend on
	// the bytes before it.
	words := [][]byte{[]byte(password), []byte(base64.StdEncoding.EncodeToString([]byte(user + ":" + password)))}
	for i := range 3 {
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", i) + password))
		words = append(words, []byte(text[4:len(text)-4]))
	}
	files, total := 0, int64(0)
	for _, root := range []string{a.victim.StateDir, a.victim.RunDir, a.victim.Log, a.hosts[0].Log} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil // The file is gone or empty.
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			files++
			total += int64(len(text))
			for _, w := range words {
				if bytes.Contains(text, w) {
					a.t.Errorf("%s has the registry's password (as %q)", path, w)
				}
			}
			return nil
		})
		if err != nil {
			a.t.Fatal(err)
		}
	}
	a.t.Logf("%d files with %d MiB of the worker: searched for the password", files, total>>20)
}

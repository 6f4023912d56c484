package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"

	"swarm/dev"
)

// threadsOfBomb is the number of threads that the hostile container starts. It exceeds the default
// process limit, and is small enough that the machine survives if there is no limit.
const threadsOfBomb = 6000

// TestAttackCLI tries to make an operator's own command line harm the operator: exec in a container
// of another service, escape sequences on the terminal, and an upgrade to a program that was not
// inspected. A container also tries to use up the host's processes.
func TestAttackCLI(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a cluster")
	}
	t.Parallel()
	first := binaryUnderTest(t)
	dir := t.TempDir()
	installed, next := filepath.Join(dir, "swarm"), filepath.Join(dir, "next")
	copyProgram(t, first, installed) // The upgrade replaces it.
	buildNext(t, next)
	c := newTestClusterOf(t, installed, dev.Options{Nodes: 1, Managers: 1})
	t.Run("Exec", func(t *testing.T) { attackExec(t, c.in(t)) })
	t.Run("Escapes", func(t *testing.T) { attackTerminal(t, c.in(t)) })
	t.Run("HealthCheck", func(t *testing.T) { attackHealth(t, c.in(t)) })
	t.Run("ForkBomb", func(t *testing.T) { attackProcesses(t, c.in(t)) })
	t.Run("Upgrade", func(t *testing.T) { attackUpgrade(t, c.in(t), installed, next) })
}

// attackExec creates a service whose name is the start of the random id of another service's task.
// The service itself runs no task.
func attackExec(t *testing.T, c *testCluster) {
	c.swarm("service", "create", "--name", "victim", "--replicas", "2", "swarm/hello:1")
	rows, err := c.ps("victim")
	if err != nil || len(rows) != 2 {
		t.Fatalf("tasks of victim: %v, %v", rows, err)
	}
	id := rows[0].id
	unique := 1 // the number of characters that distinguish the two ids
	for strings.HasPrefix(rows[1].id, id[:unique]) {
		unique++
	}
	for _, name := range []string{id[:unique], id[:8]} {
		c.swarm("service", "create", "-d", "--name", name, "--replicas", "0", "swarm/hello:1")
		out, err := c.run("exec", name, "/app", "-listen", "", "-exit-after", "1ms", "-exit-code", "7")
		t.Logf("task %s of victim runs; exec in service %s, which has no task: %v", id, name, err)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() == 7 {
			t.Errorf("exec %s entered a container of another service: %s", name, out)
		}
		if !strings.Contains(out, "service "+name) {
			t.Errorf("exec %s: got %q, want an error that names the service", name, out)
		}
		c.swarm("service", "rm", name)
	}
	victim := strings.TrimSpace(c.swarm("service", "inspect", "--format", "{{.ID}}", "victim"))
	for _, args := range [][]string{{"service", "scale", victim[:3] + "=0"}, {"service", "rm", victim[:3]}} {
		if out, err := c.run(args...); err == nil {
			t.Errorf("swarm %s reached service victim: %s", strings.Join(args, " "), out)
		}
	}
	c.swarm("service", "rm", "victim")
}

// control matches characters that no output may send to a terminal. Line ends, tabs and the
// sequences that redraw progress are allowed.
var control = regexp.MustCompile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\u009b|\u202e")

// attackTerminal has a container write escape sequences, and puts others into labels and paths that
// nodes report.
func attackTerminal(t *testing.T, c *testCluster) {
	const hostile = `\x1b]0;owned\x07\x1b[31mred\u009b2J\u202etxt\r\xff`
	label := "\x1b]0;owned\x07\u009b2J\u202e"
	c.swarm("service", "create", "--name", "loud", "--label", "note="+label, "swarm/hello:1", "-print", hostile+`\n`)
	c.swarm("service", "create", "-d", "--name", "broken", "--restart-condition", "none",
		"--mount", "type=bind,source=/nowhere/"+label+",target=/x", "swarm/hello:1")
	c.eventually("broken is rejected", func() error {
		rows, err := c.ps("broken")
		if err == nil && (len(rows) == 0 || rows[0].err == "") {
			err = fmt.Errorf("%v", rows)
		}
		return err
	})
	c.eventually("loud has written", func() error {
		out, err := c.run("service", "logs", "--raw", "loud")
		if err == nil && !strings.Contains(out, "owned") {
			err = fmt.Errorf("logs: %q", out)
		}
		return err
	})
	found := 0
	for _, args := range [][]string{
		{"service", "logs", "loud"},
		{"exec", "loud", "/app", "-listen", "", "-exit-after", "1ms", "-print", hostile},
		{"service", "ps", "--no-trunc", "broken"},
		{"service", "ps", "--format", "{{.Error}}", "broken"},
		{"service", "inspect", "--pretty", "loud"},
		{"service", "inspect", "loud"},
		{"service", "inspect", "--format", "{{.Spec.Labels}}", "loud"},
		{"task", "ls", "--no-trunc"},
		{"events", "--since", "1"},
		{"service", "inspect", "no\x1b[31msuch"},
	} {
		out := c.onTerminal(args...)
		if got := control.FindString(out); got != "" {
			found++
			t.Errorf("swarm %s: %q in %q", strings.Join(args, " "), got, out[max(0, strings.Index(out, got)-40):])
		}
	}
	if out := c.onTerminal("service", "logs", "--raw", "loud"); !strings.Contains(out, "\x1b[31mred") {
		t.Errorf("service logs --raw: got %q, want the bytes as the container wrote them", out)
	}
	t.Logf("%d commands passed control characters on", found)
	c.swarm("service", "rm", "loud", "broken")
}

// attackHealth answers a health check with megabytes of text and escape sequences, which become the
// reason why the task has failed. The node must report the failure, and its other tasks afterwards.
func attackHealth(t *testing.T, c *testCluster) {
	c.swarm("service", "create", "-d", "--name", "sick", "--restart-condition", "none",
		"--health-http", "127.0.0.1:9090", "--health-retries", "1", "--health-interval", "100ms", "swarm/hello:1", "-babble", ":9090")
	var reason string
	c.eventually("sick fails", func() error {
		rows, err := c.ps("sick")
		if err == nil && (len(rows) == 0 || rows[0].err == "") {
			err = fmt.Errorf("%v", rows)
		} else if err == nil {
			reason = rows[0].err
		}
		return err
	})
	if len(reason) > len(`""`)+4096 || control.MatchString(reason) || !strings.Contains(reason, "owned") {
		t.Errorf("the task failed with %d bytes, %.200q, want at most 4096 and no controls", len(reason), reason)
	}
	if out, err := c.run("service", "create", "--name", "well", "swarm/hello:1"); err != nil {
		t.Errorf("another task of the node: %v, %s", err, out)
	}
	t.Logf("the task failed with %d bytes: %.100q", len(reason), reason)
	c.swarm("service", "rm", "sick", "well")
}

// onTerminal runs a command whose standard output and error are a terminal, and returns the output.
func (c *testCluster) onTerminal(args ...string) string {
	c.t.Helper()
	master, name, err := console.NewPty()
	if err != nil {
		c.t.Fatal(err)
	}
	defer master.Close()
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.binary, append([]string{"-H", "unix://" + c.hosts[c.at].Socket}, args...)...)
	cmd.Stdout, cmd.Stderr = slave, slave
	if args[0] == "events" { // The command does not end by itself.
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		time.AfterFunc(2*time.Second, cancel)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	slave.Close()
	var out bytes.Buffer
	_, _ = io.Copy(&out, master) // The read fails with EIO once the last writer has closed the terminal.
	_ = cmd.Wait()
	return out.String()
}

// attackProcesses has a container start threads until the kernel refuses.
func attackProcesses(t *testing.T, c *testCluster) {
	c.swarm("service", "create", "-d", "--name", "bomb", "--restart-condition", "none", "swarm/hello:1", "-threads", fmt.Sprint(threadsOfBomb))
	refused := regexp.MustCompile(`have (\d+) already`)
	c.eventually("the container has all threads or is refused", func() error {
		out, err := c.run("service", "logs", "--raw", "bomb")
		if err == nil && strings.Contains(out, "hello: holds") {
			t.Errorf("a container holds %d threads on a host that allows %s", threadsOfBomb, readFile("/proc/sys/kernel/pid_max"))
			return nil
		}
		if have := refused.FindStringSubmatch(out); err == nil && have != nil {
			t.Logf("of %d threads the container got %s", threadsOfBomb, have[1])
			return nil
		}
		return errors.Join(err, fmt.Errorf("logs: %.200q", out))
	})
	c.swarm("service", "rm", "bomb")
	c.swarm("service", "create", "--name", "many", "--limit-pids", "0", "swarm/hello:1", "-threads", fmt.Sprint(threadsOfBomb))
	c.eventually("without a limit all threads are there", func() error {
		out, err := c.run("service", "logs", "--raw", "many")
		if err == nil && !strings.Contains(out, "hello: holds") {
			err = fmt.Errorf("logs: %.200q", out)
		}
		return err
	})
	c.swarm("service", "rm", "many")
}

func readFile(name string) string {
	b, _ := os.ReadFile(name)
	return strings.TrimSpace(string(b))
}

// attackUpgrade replaces the file between its inspection and the copy: after it was read once, it
// has other contents.
func attackUpgrade(t *testing.T, c *testCluster, installed, next string) {
	dir := t.TempDir()
	file, evil := filepath.Join(dir, "swarm"), filepath.Join(dir, "evil")
	copyProgram(t, next, file)
	const mark = "#!/bin/sh\nexit 1 # nobody has inspected this\n"
	if err := os.WriteFile(evil, []byte(mark), 0o755); err != nil {
		t.Fatal(err)
	}
	build, swapped := c.buildOf(file), swapOnceRead(t, file, evil)
	out, err := exec.CommandContext(c.ctx, next, "-H", "unix://"+c.hosts[0].Socket, "upgrade", file).CombinedOutput()
	<-swapped
	t.Logf("upgrade to a file that is swapped: %v: %s", err, out)
	now, rerr := os.ReadFile(installed)
	if rerr != nil {
		t.Fatal(rerr)
	}
	old, _ := os.ReadFile(installed + ".old")
	if bytes.HasPrefix(now, []byte(mark)) || strings.Contains(string(out), "does not serve") || bytes.HasPrefix(old, []byte(mark)) {
		t.Error("the host's program was replaced by a file that was not inspected")
	}
	c.eventually("the host runs the build that was inspected", func() error {
		got, err := c.run("node", "inspect", "--format", "{{.Description.Engine.Build}}", c.hosts[0].Name)
		if err == nil && strings.TrimSpace(got) != build {
			err = fmt.Errorf("build in node inspect: got %s, want %s", strings.TrimSpace(got), build)
		}
		return err
	})
}

// swapOnceRead replaces file by evil once file has been read to its end. The channel is closed when
// that is done or has become impossible.
func swapOnceRead(t *testing.T, file, evil string) <-chan struct{} {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.InotifyAddWatch(fd, file, unix.IN_CLOSE_NOWRITE); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer unix.Close(fd)
		if _, err := unix.Read(fd, make([]byte, 4096)); err != nil {
			t.Error(err)
		}
		if err := os.Rename(evil, file); err != nil {
			t.Error(err)
		}
	}()
	return done
}

package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"swarm/dev"
	"swarm/scenarios/probe"
)

const (
	killReplicas = 20
	// killReturn bounds how long a restarted daemon takes to report the state of its tasks, on a
	// machine that is busy with other tests.
	killReturn = 10 * time.Second
	// probeEvery is long enough that the probes leave most of the machine to the daemons under
	// test.
	probeEvery = 50 * time.Millisecond
)

// TestKill kills the daemon, the runtime beside it, and both, in turn, while containers write
// numbered lines and serve HTTP. Clients must not notice the kills, except the users of exec
// sessions. KILLS is the number of kills, default 6.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	t.Parallel()
	kills := int(envNumber(t, "KILLS", 6))
	c := newTestCluster(t, binaryUnderTest(t))
	c.create()
	p := probe.Start(c.endpoints, probeEvery)
	defer p.Stop()
	var slowest time.Duration
	for i := range kills {
		back := c.round(i)
		slowest = max(slowest, back)
	}
	requests, failures := p.Stop()
	for _, f := range failures {
		t.Error("request: ", f)
	}
	lines := c.checkLogs()
	t.Logf("%d kills, %d tasks: %d requests, %d failed; %d lines read; service ps right after at most %v",
		kills, len(c.tasks), requests, len(failures), lines, slowest.Round(10*time.Millisecond))
}

// testCluster is a cluster under test, usually with a service of which nothing may be lost.
type testCluster struct {
	t            *testing.T
	name, binary string
	images       string
	playground   *dev.Playground
	hosts        []dev.Host
	ctx          context.Context
	replicas     int
	at           int      // index of the host that runs the swarm commands
	tasks        []string // tasks of the service, sorted
	endpoints    []string // base addresses of their HTTP servers
}

// newTestCluster starts two hosts, of which the first is the manager.
func newTestCluster(t *testing.T, binary string) *testCluster {
	t.Helper()
	return newTestClusterOf(t, binary, dev.Options{Nodes: 2, Managers: 1})
}

func newTestClusterOf(t *testing.T, binary string, o dev.Options) *testCluster {
	t.Helper()
	c := &testCluster{t: t, replicas: killReplicas, name: fmt.Sprintf("k%x", randomBytes(3)), binary: binary, images: buildImages(t)}
	deadline := time.Now().Add(9 * time.Minute)
	if at, ok := t.Deadline(); ok {
		deadline = at.Add(-time.Minute) // leaves time to clean up
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	t.Cleanup(cancel)
	c.ctx = ctx
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			c.printLogs()
		}
		if err := dev.Down(ctx, c.name); err != nil {
			t.Error("take the playground down: ", err)
		}
	})
	o.Name, o.Binary, o.Root = c.name, c.binary, filepath.Join("/tmp", "swarm-"+c.name)
	// On a machine that is busy with other tests a daemon may be silent for longer than the default
	// heartbeat allows.
	o.InitArgs = []string{"--dispatcher-heartbeat", "5s"}
	p, err := dev.Up(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	c.playground = p
	if c.hosts, err = p.Hosts(); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(o.DaemonArgs, "--simulated") {
		c.swarm("image", "load", "-i", filepath.Join(c.images, "hello.tar"))
	}
	return c
}

func (c *testCluster) printLogs() {
	for _, h := range c.hosts {
		for what, file := range map[string]string{"daemon": h.Log, "runtime": filepath.Join(h.StateDir, "runtime.log")} {
			text, _ := os.ReadFile(file)
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			c.t.Logf("--- %s's %s:\n%s", h.Name, what, strings.Join(lines[max(0, len(lines)-60):], "\n"))
		}
	}
}

// run runs a swarm command on the manager.
func (c *testCluster) run(args ...string) (string, error) { return c.runAt(c.hosts[c.at], args...) }

func (c *testCluster) runAt(h dev.Host, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.binary, append([]string{"-H", "unix://" + h.Socket}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String() + errOut.String(), fmt.Errorf("swarm %s: %w: %s", strings.Join(args, " "), err, errOut.String())
	}
	return out.String() + errOut.String(), nil
}

func (c *testCluster) swarm(args ...string) string {
	c.t.Helper()
	out, err := c.run(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// psRow is a row of `service ps`.
type psRow struct{ id, node, state, err, ports string }

// failedWith reports whether the task has ended with an exit code. The code must not be 0.
func (r psRow) failedWith(code int) bool {
	return strings.HasPrefix(r.state, "Failed") && strings.Contains(r.err, fmt.Sprintf("(%d)", code))
}

func (c *testCluster) ps(service string) ([]psRow, error) {
	out, err := c.run("service", "ps", "--no-trunc", "--format", "{{.ID}}|{{.Node}}|{{.CurrentState}}|{{.Error}}|{{.Ports}}", service)
	if err != nil {
		return nil, err
	}
	var rows []psRow
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimRight(line, "\n"), "|")
		if len(f) != 5 {
			return nil, fmt.Errorf("service ps says %q", line)
		}
		rows = append(rows, psRow{f[0], f[1], f[2], f[3], f[4]})
	}
	return rows, nil
}

func (c *testCluster) create() {
	c.t.Helper()
	c.swarm("service", "create", "--name", "web", "--replicas", strconv.Itoa(c.replicas),
		"--publish", "mode=host,target=8080", "swarm/hello:1", "-log-every", "20ms")
	rows, err := c.ps("web")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, r := range rows {
		c.tasks = append(c.tasks, r.id)
		c.endpoints = append(c.endpoints, c.endpoint(r))
	}
	slices.Sort(c.tasks)
	if len(c.tasks) != c.replicas {
		c.t.Fatalf("%d tasks, want %d: %v", len(c.tasks), killReplicas, rows)
	}
}

// endpoint returns the base address at which the task's HTTP server is published.
func (c *testCluster) endpoint(r psRow) string {
	c.t.Helper()
	at, err := c.findEndpoint(r)
	if err != nil {
		c.t.Fatal(err)
	}
	return at
}

func (c *testCluster) findEndpoint(r psRow) (string, error) {
	port := regexp.MustCompile(`:(\d+)->8080/tcp`).FindStringSubmatch(r.ports)
	if port == nil {
		return "", fmt.Errorf("task %s has no published port: %v", r.id, r)
	}
	return fmt.Sprintf("http://%s:%s", c.host(r.node).Address, port[1]), nil
}

func (c *testCluster) host(name string) dev.Host {
	c.t.Helper()
	i := slices.IndexFunc(c.hosts, func(h dev.Host) bool { return h.Name == name })
	if i < 0 {
		c.t.Fatalf("no host %s", name)
	}
	return c.hosts[i]
}

// round kills a process on one of the hosts, lets a task end meanwhile, and returns how long after
// the daemon's return the managers knew the state of all tasks.
func (c *testCluster) round(i int) time.Duration {
	c.t.Helper()
	host, what := c.hosts[i/3%2], killed(i)
	once, code := "once-"+strconv.Itoa(i), 3+i
	c.swarm("service", "create", "--detach", "--name", once, "--restart-condition", "none", "--constraint", "node.hostname=="+host.Name,
		"--publish", "mode=host,target=8080", "swarm/hello:1")
	row := c.running(once)
	endpoint := c.endpoint(row)
	c.serves(endpoint)
	session := c.openSession(i, what, once)

	c.kill(host, what != "runtime", what != "daemon")
	c.endTask(endpoint, code)
	if session != nil {
		session.ended(host.Name)
	}
	c.start(host)
	if what == "both" { // the second kill happens while the daemon takes the containers over
		if err := c.playground.Kill(c.ctx, host.Name); err != nil {
			c.t.Fatal(err)
		}
		c.start(host)
	}
	began := time.Now()
	for {
		wrong := c.wrong(once, code)
		took := time.Since(began)
		if wrong == nil {
			c.t.Logf("round %d: %s on %s: all known after %v", i, what, host.Name, took.Round(10*time.Millisecond))
			if took > killReturn {
				c.t.Errorf("round %d: %s on %s: service ps was right only after %v", i, what, host.Name, took)
			}
			return took
		}
		if took > 30*time.Second {
			c.t.Fatalf("round %d: %s on %s: after %v: %v", i, what, host.Name, took, wrong)
		}
		<-time.After(50 * time.Millisecond) // the interval of the poll
	}
}

// kill kills a host's daemon, the runtime beside it, or both.
func (c *testCluster) kill(h dev.Host, daemon, runtime bool) {
	c.t.Helper()
	pid := c.runtimeOf(h)
	if daemon {
		if err := c.playground.Kill(c.ctx, h.Name); err != nil {
			c.t.Fatal(err)
		}
	}
	if runtime {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			c.t.Fatalf("kill the runtime of %s: %v", h.Name, err)
		}
	}
}

func (c *testCluster) start(h dev.Host) {
	c.t.Helper()
	if err := c.playground.Start(c.ctx, h.Name); err != nil {
		c.t.Fatal(err)
	}
}

// running waits for the only task of a service.
func (c *testCluster) running(service string) psRow {
	c.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		rows, err := c.ps(service)
		if err == nil && len(rows) == 1 && strings.HasPrefix(rows[0].state, "Running") {
			return rows[0]
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("service ps %s: %v, %v", service, rows, err)
		}
		<-time.After(50 * time.Millisecond) // the interval of the poll
	}
}

// wrong returns an error until service ps shows that the task of the service once has failed with
// the code and that the service web is undisturbed.
func (c *testCluster) wrong(once string, code int) error {
	if err := c.disturbed(); err != nil {
		return err
	}
	rows, err := c.ps(once)
	if err != nil {
		return err
	}
	if len(rows) != 1 || !rows[0].failedWith(code) {
		return fmt.Errorf("tasks of %s: got %v, want one Failed with code %d", once, rows, code)
	}
	return nil
}

// disturbed returns an error if a task of the service web does not run or was replaced.
func (c *testCluster) disturbed() error {
	rows, err := c.ps("web")
	if err != nil {
		return err
	}
	var ids []string
	var not []string
	for _, r := range rows {
		if !strings.HasPrefix(r.state, "Running") {
			not = append(not, fmt.Sprintf("%s on %s is %s (%s)", r.id, r.node, r.state, r.err))
		}
		ids = append(ids, r.id)
	}
	if not != nil {
		return fmt.Errorf("tasks that should run: %s", strings.Join(not, "; "))
	}
	slices.Sort(ids)
	if !slices.Equal(ids, c.tasks) {
		return fmt.Errorf("tasks were replaced: got %v, want %v", ids, c.tasks)
	}
	return nil
}

// runtimeOf returns the process id of the host's `swarm runtime`.
func (c *testCluster) runtimeOf(h dev.Host) int {
	c.t.Helper()
	pid, err := c.findRuntime(h)
	if err != nil {
		c.t.Fatal(err)
	}
	return pid
}

func (c *testCluster) findRuntime(h dev.Host) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // The process has ended.
		}
		args := strings.Split(string(text), "\x00")
		if len(args) > 1 && args[1] == "runtime" && strings.Contains(string(text), h.StateDir+"/") {
			return strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return 0, fmt.Errorf("host %s has no runtime process", h.Name)
}

// serves waits until a task's server answers. A task is RUNNING as soon as its process has started,
// which may be earlier.
func (c *testCluster) serves(endpoint string) {
	c.t.Helper()
	client := probe.New()
	defer client.Close()
	c.eventually(endpoint+" serves", func() error {
		_, err := client.Get(endpoint + "/")
		return err
	})
}

// endTask has a task's server end with an exit code, and returns when the server no longer answers.
func (c *testCluster) endTask(endpoint string, code int) {
	c.t.Helper()
	client := probe.New()
	defer client.Close()
	_, _ = client.Get(endpoint + "/exit/" + strconv.Itoa(code)) // The process may end before it answers.
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err := client.Get(endpoint + "/"); errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s still answers after its exit", endpoint)
		}
		<-time.After(10 * time.Millisecond) // the interval of the poll
	}
}

// checkLogs checks the logs of each task: the task has started once, and its numbered lines are
// complete from the first to at least the last one that the task had written when it was queried.
// It returns the number of lines.
func (c *testCluster) checkLogs() int {
	c.t.Helper()
	total := 0
	for id, n := range c.written() {
		total += c.checkLines(id, c.logsUpTo(id, n), n)
	}
	return total
}

// logsUpTo reads a task's logs until they have line n, because a line takes a moment from the
// container to the logs.
func (c *testCluster) logsUpTo(id string, n int) (out string) {
	c.t.Helper()
	last := regexp.MustCompile(fmt.Sprintf("(?m)^line %d$", n))
	c.eventually(fmt.Sprintf("line %d of task %s", n, id), func() error {
		if out = c.swarm("task", "logs", "--raw", id); n > 0 && !last.MatchString(out) {
			return fmt.Errorf("%d bytes of logs are without it", len(out))
		}
		return nil
	})
	return out
}

// written returns the least number of lines that each task has written.
func (c *testCluster) written() map[string]int {
	c.t.Helper()
	want := map[string]int{}
	rows, err := c.ps("web")
	if err != nil {
		c.t.Fatal(err)
	}
	client := probe.New()
	defer client.Close()
	for _, r := range rows {
		text, err := client.Get(c.endpoint(r) + "/lines")
		if err != nil {
			c.t.Fatal(err)
		}
		if want[r.id], err = strconv.Atoi(strings.TrimSpace(text)); err != nil {
			c.t.Fatal(err)
		}
	}
	return want
}

func (c *testCluster) checkLines(id, out string, n int) int {
	c.t.Helper()
	began, next, lost, doubled := 0, 1, 0, 0
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "hello: up") {
			began++
		}
		text, ok := strings.CutPrefix(line, "line ")
		if !ok {
			continue
		}
		got, err := strconv.Atoi(text)
		switch {
		case err != nil:
			c.t.Errorf("task %s wrote %q", id, line)
		case got < next:
			doubled++
		default:
			lost += got - next
			next = got + 1
		}
	}
	lost += max(0, n-(next-1))
	if began != 1 || lost+doubled > 0 {
		c.t.Errorf("task %s: began %d times, %d lines lost, %d doubled, of %d", id, began, lost, doubled, n)
	}
	return next - 1
}

// killed returns which process a round kills.
func killed(round int) string { return []string{"daemon", "runtime", "both"}[round%3] }

package scenarios

import (
	"errors"
	"fmt"
	"os"
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
	diskReplicas = 8
	// diskNotice bounds how long the managers take to learn that a disk is full or has room again.
	diskNotice = 30 * time.Second
)

// TestDisk repeatedly fills the disk of a host completely: a worker's, a manager's, the leader's.
// Running tasks must go on, and new tasks must run elsewhere. The host must say why, and must take
// part again by itself once there is room. ROUNDS is the number of rounds, default 3.
func TestDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	t.Parallel()
	rounds := int(envNumber(t, "ROUNDS", 3))
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 4, Managers: 3, Disk: 400 << 20})
	c.replicas = diskReplicas
	c.create()
	load := probe.Start(c.endpoints, probeEvery)
	defer load.Stop()
	for i := range rounds {
		c.diskRound(i)
	}
	requests, failures := load.Stop()
	for _, f := range failures {
		t.Error("request: ", f)
	}
	lines, missing := c.accountLogs()
	c.restartAll(rounds)
	t.Logf("%d rounds, %d tasks: %d requests, %d failed; %d lines read, %d counted as missing", rounds, len(c.tasks), requests, len(failures), lines, missing)
}

// diskRound fills one host's disk, tries the commands that must work meanwhile, and frees the disk.
func (c *testCluster) diskRound(i int) {
	c.t.Helper()
	victim := c.victim(i)
	// Commands go to a manager with free disk space. answers tests a manager with a full disk.
	c.at = slices.IndexFunc(c.hosts, func(h dev.Host) bool { return h.Role == dev.Manager && h.Name != victim.Name })
	filler := filepath.Join(victim.StateDir, "filler")
	began := time.Now()
	fillDisk(c.t, filler)
	c.await("node ls says that the disk is full", func() error { return c.statusIs(victim.Name, "Ready (disk is full)") })
	noticed := time.Since(began)
	fillDisk(c.t, filler) // This uses the reserved space too.
	c.runsElsewhere(i, victim)
	c.swarm("node", "update", "--label-add", fmt.Sprintf("round-%d=yes", i), victim.Name)
	if victim.Role == dev.Manager {
		c.answers(victim)
	}
	if err := c.disturbed(); err != nil {
		c.t.Errorf("round %d: while the disk of %s is full: %v", i, victim.Name, err)
	}
	fillDisk(c.t, filler)
	began = time.Now()
	if err := os.Remove(filler); err != nil {
		c.t.Fatal(err)
	}
	c.await("the node is ready again", func() error { return c.statusIs(victim.Name, "Ready") })
	c.running(pinnedOf(i)) // The task could only wait for free space.
	c.t.Logf("round %d: %s full: known after %v, in use again after %v", i, victim.Name,
		noticed.Round(10*time.Millisecond), time.Since(began).Round(10*time.Millisecond))
	if err := c.disturbed(); err != nil {
		c.t.Errorf("round %d: after the disk of %s was full: %v", i, victim.Name, err)
	}
	c.swarm("service", "rm", pinnedOf(i), newOf(i))
}

func pinnedOf(i int) string { return fmt.Sprintf("pinned-%d", i) }
func newOf(i int) string    { return fmt.Sprintf("new-%d", i) }

// victim returns a worker, a manager that is not the leader, and the leader, in turn.
func (c *testCluster) victim(i int) dev.Host {
	c.t.Helper()
	want := []string{"", "Reachable", "Leader"}[i%3]
	var found string
	c.await("there is a "+want, func() error {
		for line := range strings.Lines(c.swarm("node", "ls", "--format", "{{.Hostname}}|{{.ManagerStatus}}")) {
			if name, status, _ := strings.Cut(strings.TrimSpace(line), "|"); status == want {
				found = name
				return nil
			}
		}
		return errors.New("none yet")
	})
	return c.host(found)
}

// fillDisk writes until not a byte more fits. It appends to a file that exists.
func fillDisk(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		_, err := f.Write(make([]byte, size))
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

func (c *testCluster) await(what string, wrong func() error) {
	c.t.Helper()
	began := time.Now()
	for {
		err := wrong()
		if err == nil {
			return
		}
		if time.Since(began) > 2*diskNotice {
			c.t.Fatalf("%s: after %v: %v", what, time.Since(began).Round(time.Second), err)
		}
		<-time.After(50 * time.Millisecond) // the interval of the poll
	}
}

func (c *testCluster) statusIs(host, want string) error {
	out, err := c.run("node", "ls", "--filter", "name="+host, "--format", "{{.Status}}")
	if got := strings.TrimSpace(out); err != nil || got != want {
		return fmt.Errorf("%s is %q, want %q: %v", host, got, want, err)
	}
	return nil
}

// runsElsewhere creates a service that must run on other hosts, and one that only the full host may
// run, which must wait and say why.
func (c *testCluster) runsElsewhere(i int, victim dev.Host) {
	c.t.Helper()
	c.swarm("service", "create", "--name", newOf(i), "--replicas", "4", "swarm/hello:1")
	rows, err := c.ps(newOf(i))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, r := range rows {
		if r.node == victim.Name || !strings.HasPrefix(r.state, "Running") {
			c.t.Errorf("round %d: while the disk of %s is full: %v", i, victim.Name, r)
		}
	}
	c.swarm("service", "create", "--detach", "--name", pinnedOf(i), "--constraint", "node.hostname=="+victim.Name, "swarm/hello:1")
	c.await("the pending task says why", func() error {
		rows, err := c.ps(pinnedOf(i))
		if err != nil || len(rows) != 1 || !strings.HasPrefix(rows[0].state, "Pending") || !strings.Contains(rows[0].err, "its disk is full") {
			return fmt.Errorf("%v, %v", rows, err)
		}
		return nil
	})
}

// answers checks that a manager with a full disk still serves users, or returns an error of one
// line that gives the reason.
func (c *testCluster) answers(victim dev.Host) {
	c.t.Helper()
	at := c.at
	defer func() { c.at = at }()
	c.at = slices.IndexFunc(c.hosts, func(h dev.Host) bool { return h.Name == victim.Name })
	c.swarm("service", "ls")
	if out, err := c.run("node", "update", "--label-add", "asked=full", victim.Name); err != nil && !strings.Contains(out, "cannot write its disk") {
		c.t.Errorf("write through %s: %v", victim.Name, err)
	}
	if _, err := c.run("image", "load", "-i", filepath.Join(c.images, "hello.tar")); err == nil || !strings.Contains(err.Error(), "its disk is full: make room") {
		c.t.Errorf("load an image on %s: got %v, want a refusal", victim.Name, err)
	}
}

var missingNotice = regexp.MustCompile(`^swarm: (\d+) lines are missing here: `)

// accountLogs reads the logs and checks that each written line is there once and complete, or is
// counted as missing in its place.
func (c *testCluster) accountLogs() (lines, missing int) {
	c.t.Helper()
	want := c.written()
	for id, n := range want {
		next := 1
		for line := range strings.Lines(c.logsUpTo(id, n)) {
			line = strings.TrimSuffix(line, "\n")
			if m := missingNotice.FindStringSubmatch(line); m != nil {
				lost, _ := strconv.Atoi(m[1])
				next, missing = next+lost, missing+lost
				continue
			}
			if strings.HasPrefix(line, "hello: up") { // It may come late, and a second start would begin at line 1 again.
				continue
			}
			if line != fmt.Sprintf("line %d", next) {
				c.t.Errorf("task %s: %q stands where line %d should", id, line, next)
				break
			}
			next++
			lines++
		}
		if next <= n {
			c.t.Errorf("task %s: the log ends before line %d of %d", id, next, n)
		}
	}
	return lines, missing
}

// restartAll kills every daemon and starts it again, and checks that what was written while disks
// were full is still there.
func (c *testCluster) restartAll(rounds int) {
	c.t.Helper()
	for _, h := range c.hosts {
		if err := c.playground.Kill(c.ctx, h.Name); err != nil {
			c.t.Fatal(err)
		}
	}
	for _, h := range c.hosts {
		c.start(h)
	}
	c.at = 0
	c.await("all nodes are ready after the restart", func() error {
		out, err := c.run("node", "ls", "--format", "{{.Status}}")
		if err != nil || strings.TrimSpace(out) != strings.TrimSpace(strings.Repeat("Ready\n", len(c.hosts))) {
			return fmt.Errorf("node ls: %s: %v", out, err)
		}
		return c.disturbed()
	})
	labels := ""
	for _, h := range c.hosts {
		labels += c.swarm("node", "inspect", "--format", "{{json .Spec.Labels}}", h.Name)
	}
	for i := range rounds {
		if !strings.Contains(labels, fmt.Sprintf("round-%d", i)) {
			c.t.Errorf("the label of round %d is lost: %s", i, labels)
		}
	}
}

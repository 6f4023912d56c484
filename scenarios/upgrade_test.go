package scenarios

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"swarm/dev"
	"swarm/scenarios/probe"
)

// TestUpgrade replaces the program of each host by another build and then by the first one again,
// under the load of TestKill. Clients must not notice the upgrades.
func TestUpgrade(t *testing.T) {
	if testing.Short() {
		t.Skip("builds swarm once more")
	}
	t.Parallel()
	first := binaryUnderTest(t)
	dir := t.TempDir()
	installed, next := filepath.Join(dir, "swarm"), filepath.Join(dir, "next")
	copyProgram(t, first, installed)
	buildNext(t, next)
	c := newTestCluster(t, installed)
	c.create()
	p := probe.Start(c.endpoints, probeEvery)
	defer p.Stop()
	for _, program := range []string{next, first} {
		build := c.buildOf(program)
		for _, h := range c.hosts {
			c.upgrade(h, program, build)
		}
	}
	requests, failures := p.Stop()
	for _, f := range failures {
		t.Error("request: ", f)
	}
	lines := c.checkLogs()
	t.Logf("4 upgrades, %d tasks: %d requests, %d failed; %d lines read", len(c.tasks), requests, len(failures), lines)
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, f); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// buildNext builds swarm with another version. The embedded runc exists if bin/swarm exists.
func buildNext(t *testing.T, to string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "embedrunc", "-ldflags", "-s -w -X main.version=next", "-o", to, "../cmd/swarm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the next swarm: %v\n%s", err, out)
	}
}

// buildOf returns the build that a program reports.
func (c *testCluster) buildOf(program string) string {
	c.t.Helper()
	cmd := exec.CommandContext(c.ctx, program, "-H", "unix:///nonexistent", "version", "--format", "{{.Client.Build}}")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil && out.Len() == 0 {
		c.t.Fatalf("%s version: %v", program, err)
	}
	return strings.TrimSpace(out.String())
}

// upgrade installs a program on a host, and waits until its daemon and its runtime run that build
// and no task is disturbed.
func (c *testCluster) upgrade(h dev.Host, program, build string) {
	c.t.Helper()
	began := time.Now()
	cmd := exec.CommandContext(c.ctx, program, "-H", "unix://"+h.Socket, "upgrade", program)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("upgrade %s: %v: %s", h.Name, err, out)
	}
	for {
		wrong := c.notUpgraded(h, build)
		if wrong == nil {
			c.t.Logf("%s runs %s after %v", h.Name, build, time.Since(began).Round(10*time.Millisecond))
			return
		}
		if time.Since(began) > time.Minute {
			c.t.Fatalf("upgrade %s to %s: %v", h.Name, build, wrong)
		}
		<-time.After(50 * time.Millisecond) // the interval of the poll
	}
}

func (c *testCluster) notUpgraded(h dev.Host, build string) error {
	got, err := c.run("node", "inspect", "--format", "{{.Description.Engine.Build}}", h.Name)
	if err != nil {
		return err
	}
	if strings.TrimSpace(got) != build {
		return fmt.Errorf("build in node inspect: got %s, want %s", strings.TrimSpace(got), build)
	}
	pid, err := c.findRuntime(h)
	if err != nil {
		return err
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return err
	}
	if filepath.Base(filepath.Dir(exe)) != build {
		return fmt.Errorf("program of the runtime: got %s, want build %s", exe, build)
	}
	return c.disturbed()
}

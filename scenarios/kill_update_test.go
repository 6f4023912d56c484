package scenarios

import (
	"fmt"
	"math/rand/v2"
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
)

const (
	// killUpdateTasks is how many tasks the updated service has, two of which change at a time.
	killUpdateTasks = 8
	// killAfterMin and killAfterMax bound the time between the begin of an update and the kill, while tasks of the update are
	// prepared, started and stopped.
	killAfterMin = 100 * time.Millisecond
	killAfterMax = 1800 * time.Millisecond
)

// TestKillRuntimeDuringUpdate kills the runtime process of a host, in every third round together with the daemon, in the
// middle of a rolling update, while tasks are PREPARING, STARTING and stopping. The death of the runtime is no failure of a
// task: every update completes, no task has failed, and no container is left that belongs to no task. ROUNDS is how often,
// default 4; SEED replays.
func TestKillRuntimeDuringUpdate(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	t.Parallel()
	seed, rounds := number(t, "SEED", rand.Uint64()), int(number(t, "ROUNDS", 4))
	t.Logf("SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	c := newCrowdOf(t, binaryUnderTest(t), dev.Options{Nodes: 2, Managers: 1})
	c.swarm("service", "create", "--name", "web", "--replicas", strconv.Itoa(killUpdateTasks),
		"--stop-grace-period", "500ms", "--update-parallelism", "2", "--update-monitor", "500ms", "--update-failure-action", "rollback",
		"swarm/hello:1", "-ignore-term")
	wrong := map[string]int{}
	for i := range rounds {
		order, host, both := []string{"stop-first", "start-first"}[random.IntN(2)], c.hosts[random.IntN(2)], i%3 == 2
		after := killAfterMin + time.Duration(random.Int64N(int64(killAfterMax-killAfterMin)))
		c.swarm("service", "update", "--detach", "--update-order", order, "--env-add", fmt.Sprintf("ROUND=%d", i), "web")
		<-time.After(after) // Random on purpose: where in the update the kill falls is what the rounds are about.
		c.killRuntime(host, both)
		began := time.Now()
		c.afterUpdate(wrong)
		t.Logf("round %d: %s, killed on %s after %v (daemon too: %v), update done %v later; wrong so far: %v",
			i, order, host.Name, after.Round(time.Millisecond), both, time.Since(began).Round(10*time.Millisecond), wrong)
	}
	for what, n := range wrong {
		t.Errorf("%d times in %d rounds, want 0: %s", n, rounds, what)
	}
}

// killRuntime kills a host's runtime, and the daemon before it if asked, which is then started again.
func (c *crowd) killRuntime(h dev.Host, both bool) {
	c.t.Helper()
	runtime := c.runtimeOf(h)
	if both {
		if err := c.playground.Kill(c.ctx, h.Name); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := syscall.Kill(runtime, syscall.SIGKILL); err != nil {
		c.t.Fatalf("kill the runtime of %s: %v", h.Name, err)
	}
	if both {
		c.start(h)
	}
}

// afterUpdate waits until the update has come to an end, counts what went wrong, and has all containers accounted for.
func (c *crowd) afterUpdate(wrong map[string]int) {
	c.t.Helper()
	var state string
	c.eventually("the end of the update", func() error {
		out, err := c.run("service", "inspect", "--format", "{{.UpdateStatus.State}}", "web")
		state = strings.TrimSpace(out)
		if err == nil && (state == "updating" || state == "rollback-started") {
			err = fmt.Errorf("the update is %s", state)
		}
		return err
	})
	if state != "completed" {
		wrong["updates not completed but "+state]++
	}
	rows, err := c.ps("web")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, r := range rows {
		if strings.HasPrefix(r.state, "Failed") || strings.HasPrefix(r.state, "Rejected") {
			wrong[fmt.Sprintf("task %s on %s failed: %s; it wrote: %s", r.id, r.node, r.err, c.swarm("task", "logs", "--raw", r.id))] = 1
		}
	}
	if state != "completed" { // The next round begins with a service that stands.
		c.swarm("service", "update", "--update-order", "stop-first", "--env-add", "AGAIN="+strconv.Itoa(len(rows)), "web")
	}
	c.eventually("containers of running tasks and no other", func() error { return c.unaccounted("web") })
}

// unaccounted compares the containers that the kernel runs with the tasks that service ps calls running.
func (c *crowd) unaccounted(service string) error {
	rows, err := c.ps(service)
	if err != nil {
		return err
	}
	var want []string
	for _, r := range rows {
		if strings.HasPrefix(r.state, "Running") {
			want = append(want, r.id)
		}
	}
	got := c.containers()
	slices.Sort(want)
	if len(want) != killUpdateTasks || !slices.Equal(got, want) {
		return fmt.Errorf("processes of containers %v, want those of %d tasks %v", got, killUpdateTasks, want)
	}
	return nil
}

// containers are the tasks in whose cgroups on this machine processes of the playground run, sorted.
func (c *crowd) containers() []string {
	at := regexp.MustCompile(`/swarm-dev-` + c.name + `/[^/\n]+/([a-z0-9]{25})(/|\n|$)`)
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup") // The pattern is valid.
	var ids []string
	for _, file := range files {
		text, _ := os.ReadFile(file) // The process may have ended.
		if m := at.FindSubmatch(text); m != nil {
			ids = append(ids, string(m[1]))
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

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
	"testing"
	"time"

	"swarm/dev"
)

const (
	// killUpdateTasks is the number of tasks of the updated service. Two of them are updated at a
	// time.
	killUpdateTasks = 8
	// killAfterMin and killAfterMax bound the time between the start of an update and the kill.
	// Within it, tasks of the update are prepared, started and stopped.
	killAfterMin = 100 * time.Millisecond
	killAfterMax = 1800 * time.Millisecond
)

// victims are the processes of a host that a round kills.
var victims = []string{"daemon", "runtime", "daemon and runtime"}

// TestKillDuringUpdate kills the daemon of a host, its runtime, and both, in turn, in the middle of
// a rolling update, while tasks are PREPARING, STARTING and stopping. The kills must not make tasks
// fail: every update completes, no task has failed, no slot has more containers than the update
// order allows, and every container belongs to a task. ROUNDS is the number of rounds, default 6.
// SEED replays the choices. FROM is the number of the first round, because each round draws from
// the seed and its own number.
func TestKillDuringUpdate(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	t.Parallel()
	seed, rounds, from := envNumber(t, "SEED", rand.Uint64()), int(envNumber(t, "ROUNDS", 6)), int(envNumber(t, "FROM", 0))
	t.Logf("SEED=%d", seed)
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 2, Managers: 1})
	c.swarm("service", "create", "--name", "web", "--replicas", strconv.Itoa(killUpdateTasks),
		"--stop-grace-period", "500ms", "--update-parallelism", "2", "--update-monitor", "500ms", "--update-failure-action", "rollback",
		"swarm/hello:1", "-ignore-term")
	wrong := map[string]int{}
	for i := from; i < from+rounds; i++ {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		order, host, victim := []string{"stop-first", "start-first"}[random.IntN(2)], c.hosts[random.IntN(2)], victims[i%len(victims)]
		after := killAfterMin + time.Duration(random.Int64N(int64(killAfterMax-killAfterMin)))
		stop := c.census()
		c.swarm("service", "update", "--detach", "--update-order", order, "--env-add", fmt.Sprintf("ROUND=%d", i), "web")
		<-time.After(after) // The time is random, because each round shall hit another moment of the update.
		c.strike(host, victim)
		began := time.Now()
		c.afterUpdate(wrong)
		c.countOverfull(stop(), order, wrong)
		t.Logf("round %d: %s, killed the %s of %s after %v, update done %v later; wrong so far: %v",
			i, order, victim, host.Name, after.Round(time.Millisecond), time.Since(began).Round(10*time.Millisecond), wrong)
	}
	for what, n := range wrong {
		t.Errorf("%d times in %d rounds, want 0: %s", n, rounds, what)
	}
}

// strike kills processes of a host. The host's daemon is started again.
func (c *testCluster) strike(h dev.Host, victim string) {
	c.t.Helper()
	daemon := strings.HasPrefix(victim, "daemon")
	c.kill(h, daemon, strings.HasSuffix(victim, "runtime"))
	if daemon {
		c.start(h)
	}
}

// censusEvery is the interval at which census lists the tasks that have containers.
const censusEvery = 50 * time.Millisecond

// census records repeatedly which tasks have containers, until stop is called.
func (c *testCluster) census() (stop func() [][]string) {
	end, seen := make(chan struct{}), make(chan [][]string)
	go func() {
		var all [][]string
		for {
			all = append(all, c.containers())
			select {
			case <-time.After(censusEvery):
			case <-end:
				seen <- all
				return
			}
		}
	}()
	return func() [][]string {
		close(end)
		return <-seen
	}
}

// countOverfull counts the slots in which more containers ran at once than the update order allows.
func (c *testCluster) countOverfull(census [][]string, order string, wrong map[string]int) {
	c.t.Helper()
	slotOf := map[string]string{}
	for line := range strings.Lines(c.swarm("service", "ps", "--no-trunc", "--format", "{{.ID}} {{.Name}}", "web")) {
		if f := strings.Fields(line); len(f) > 1 {
			slotOf[f[0]] = f[len(f)-1]
		}
	}
	allowed := 1
	if order == "start-first" {
		allowed = 2
	}
	worst := map[string][]string{}
	for _, ids := range census {
		now := map[string][]string{}
		for _, id := range ids {
			slot := slotOf[id]
			if slot == "" { // afterUpdate counts containers without a task.
				continue
			}
			now[slot] = append(now[slot], id)
			if len(now[slot]) > allowed && len(now[slot]) > len(worst[slot]) {
				worst[slot] = now[slot]
			}
		}
	}
	for slot, ids := range worst {
		wrong[fmt.Sprintf("%s had the containers %v at once in an update that is %s", slot, ids, order)]++
	}
}

// afterUpdate waits until the update has ended, counts what went wrong, and checks that each
// container belongs to a task.
func (c *testCluster) afterUpdate(wrong map[string]int) {
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
	if state != "completed" { // The next round needs a service without an update in progress.
		c.swarm("service", "update", "--update-order", "stop-first", "--env-add", "AGAIN="+strconv.Itoa(len(rows)), "web")
	}
	c.eventually("containers of running tasks and no other", func() error { return c.unaccounted("web") })
}

// unaccounted compares the containers that the kernel runs with the tasks that service ps shows as
// running.
func (c *testCluster) unaccounted(service string) error {
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

// containers returns the ids of the tasks in whose cgroups processes of the playground run on this
// machine, sorted.
func (c *testCluster) containers() []string {
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

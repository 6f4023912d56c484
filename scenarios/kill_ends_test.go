package scenarios

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"swarm/dev"
	"swarm/scenarios/probe"
)

// TestKill_Ends kills the daemon, the runtime and both, in turn, while tasks end: some before the
// kill, some while the process is down, and some while the next process takes the containers over.
// The manager must learn of every end with its exit code. ROUNDS is the number of rounds, default
// 3. SEED replays the moments.
func TestKill_Ends(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	const (
		replicas = 20
		before   = 100 * time.Millisecond // when the first task ends, which is before the kill
		spread   = 1500 * time.Millisecond
	)
	seed, rounds := envNumber(t, "SEED", rand.Uint64()), envNumber(t, "ROUNDS", 3)
	t.Logf("SEED=%d", seed)
	lot := rand.New(rand.NewPCG(seed, seed))
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 1, Managers: 1})
	for round := range rounds {
		service := fmt.Sprintf("ends-%d", round)
		c.swarm("service", "create", "--detach", "--name", service, "--replicas", strconv.Itoa(replicas), "--restart-condition", "none",
			"--publish", "mode=host,target=8080", "swarm/hello:1")
		var rows []psRow
		c.eventually(service+" runs", func() (err error) {
			rows, err = c.ps(service)
			if i := slices.IndexFunc(rows, func(r psRow) bool { return !strings.HasPrefix(r.state, "Running") }); err == nil && (i >= 0 || len(rows) < replicas) {
				err = fmt.Errorf("tasks: %v", rows)
			}
			return err
		})
		want := map[string]int{}
		var asked sync.WaitGroup
		for _, row := range rows {
			c.serves(c.endpoint(row))
		}
		for i, row := range rows {
			want[row.id] = 3 + i
			at, path := time.Duration(lot.Int64N(int64(spread))), c.endpoint(row)+"/exit/"+strconv.Itoa(3+i)
			asked.Go(func() {
				client := probe.New()
				defer client.Close()
				<-time.After(at)        // the moment at which the task shall end
				_, _ = client.Get(path) // The process may end before it answers.
			})
		}
		<-time.After(before) // Some tasks end before the kill.
		what := killed(int(round))
		c.kill(c.hosts[0], what != "runtime", what != "daemon")
		<-time.After(time.Duration(lot.Int64N(int64(before)))) // The process stays down for a moment.
		c.start(c.hosts[0])
		asked.Wait()
		began := time.Now()
		c.eventually(service+" has ended", func() error {
			rows, err := c.ps(service)
			if err != nil {
				return err
			}
			var wrong []string
			for _, r := range rows {
				if code := want[r.id]; code == 0 || !r.failedWith(code) {
					wrong = append(wrong, fmt.Sprintf("%s is %s %q, want Failed with code %d", r.id, r.state, r.err, code))
				}
			}
			if wrong != nil {
				return fmt.Errorf("%d tasks: %s", len(wrong), strings.Join(wrong, "; "))
			}
			return nil
		})
		t.Logf("round %d: %s: all known after %v", round, what, time.Since(began).Round(10*time.Millisecond))
		c.swarm("service", "rm", service)
	}
}

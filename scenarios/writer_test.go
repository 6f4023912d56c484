package scenarios

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/dev"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// writerTimeout is the session timeout, and so the lease of the single-writer task.
	writerTimeout = 2 * time.Second
	// writerAway bounds the duration of a fault. Some faults end before the lease does, and some
	// after it.
	writerAway = 7 * time.Second
)

// TestSingleWriter cuts hosts off, kills daemons and runtimes, drains nodes and updates a service
// at random. The service is single-writer, and its container ignores SIGTERM and writes to a file
// of the machine for as long as it runs. Two containers of the service must never run at once: the
// file must have no line of one container after a line of the next. ROUNDS is the number of rounds,
// default 4. SEED replays the choices.
func TestSingleWriter(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	t.Parallel()
	seed, rounds := envNumber(t, "SEED", rand.Uint64()), int(envNumber(t, "ROUNDS", 4))
	t.Logf("SEED=%d", seed)
	w := &writers{
		testCluster: newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 3, Managers: 3}),
		Rand:        rand.New(rand.NewPCG(seed, 0)), folder: t.TempDir(),
	}
	w.shorten()
	w.swarm("service", "create", "--name", "db", "--single-writer", "--stop-grace-period", "5s", "--restart-delay", "500ms",
		"--update-monitor", "500ms", "--mount", "type=bind,source="+w.folder+",target=/data", "swarm/hello:1",
		"-listen", "", "-ignore-term", "-writer", "/data/db")
	w.takenOver()
	for i := range rounds {
		w.round(i)
	}
	ids, overlaps := w.written()
	t.Logf("%d rounds, SEED=%d: %d containers one after the other, overlaps: %d", rounds, seed, len(ids), overlaps)
}

// writers is the state of TestSingleWriter.
type writers struct {
	*testCluster
	*rand.Rand
	folder  string
	updates int
}

// shorten sets the cluster's session timeout. Workers learn it when they begin a session.
func (w *writers) shorten() {
	w.t.Helper()
	conn, err := transport.DialUnix(w.hosts[0].Socket)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	control := swarmv1.NewControlClient(conn)
	cluster, err := control.GetCluster(w.ctx, &swarmv1.GetRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	spec := cluster.GetSpec().CloneVT()
	spec.Dispatcher.HeartbeatPeriod, spec.Dispatcher.SessionTimeout = durationpb.New(500*time.Millisecond), durationpb.New(writerTimeout)
	if _, err := control.UpdateCluster(w.ctx, &swarmv1.UpdateClusterRequest{Version: cluster.GetMeta().GetVersion(), Spec: spec}); err != nil {
		w.t.Fatal(err)
	}
	for _, h := range w.hosts {
		w.must(w.playground.Kill(w.ctx, h.Name))
		w.start(h)
	}
	w.allReady()
}

func (w *writers) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// takenOver cuts off the host of the task until another host runs the service.
func (w *writers) takenOver() {
	w.t.Helper()
	was := w.waitTask()
	h := w.host(was.node)
	w.at = (w.index(h) + 1) % len(w.hosts)
	began := time.Now()
	w.must(w.playground.Cut(dev.Cut{Hosts: []string{h.Name}}))
	w.eventually("another node runs the task", func() error {
		now, err := w.runs()
		if err == nil && now.id == was.id {
			err = fmt.Errorf("task %s still runs on %s", was.id, was.node)
		}
		return err
	})
	w.t.Logf("%s was cut off: another container ran after %v", h.Name, time.Since(began).Round(10*time.Millisecond))
	w.must(w.playground.Heal(h.Name))
	w.waitTask()
}

func (w *writers) index(h dev.Host) int {
	return slices.IndexFunc(w.hosts, func(o dev.Host) bool { return o.Name == h.Name })
}

// round strikes one host, usually the one with the task, while a command makes the managers replace
// the task.
func (w *writers) round(i int) {
	w.t.Helper()
	h := w.hosts[w.IntN(len(w.hosts))]
	if task, err := w.runs(); err == nil && w.IntN(4) > 0 {
		h = w.host(task.node)
	}
	w.at = (w.index(h) + 1 + w.IntN(len(w.hosts)-1)) % len(w.hosts)
	fault, order := []string{"cut", "daemon", "runtime", "both", "none"}[w.IntN(5)], []string{"update", "reject", "drain", "none"}[w.IntN(4)]
	before, away := w.pause(2*time.Second), w.pause(writerAway)
	heal := func() {}
	strikes := []func(){func() { heal = w.strike(fault, h) }, func() { w.order(order, h) }}
	w.Shuffle(len(strikes), func(a, b int) { strikes[a], strikes[b] = strikes[b], strikes[a] })
	for _, strike := range strikes {
		strike()
		<-time.After(before) // This time and away are random, because each round shall hit another moment.
	}
	<-time.After(away)
	heal()
	w.retry("activate", "node", "update", "--availability", "active", h.Name)
	if order == "reject" {
		w.retry("mend", "service", "update", "--detach", "--mount-rm", "/x", "db")
	}
	now := w.waitTask()
	ids, overlaps := w.written()
	w.t.Logf("round %d: %s on %s for %v, %s; runs on %s; %d containers so far", i, fault, h.Name, away.Round(10*time.Millisecond), order, now.node, len(ids))
	if overlaps > 0 {
		w.t.Fatalf("round %d: %d times a container ran at the same time as the next one", i, overlaps)
	}
}

func (w *writers) pause(most time.Duration) time.Duration {
	return time.Duration(w.Int64N(int64(most)))
}

// strike causes a fault and returns the function that undoes it.
func (w *writers) strike(fault string, h dev.Host) (heal func()) {
	w.t.Helper()
	if fault == "cut" {
		w.must(w.playground.Cut(dev.Cut{Hosts: []string{h.Name}}))
		return func() { w.must(w.playground.Heal(h.Name)) }
	}
	runtime := w.runtimeOf(h)
	if fault == "daemon" || fault == "both" {
		w.must(w.playground.Kill(w.ctx, h.Name))
		heal = func() { w.start(h) }
	}
	if fault == "runtime" || fault == "both" {
		w.must(syscall.Kill(runtime, syscall.SIGKILL))
	}
	if heal == nil {
		heal = func() {}
	}
	return heal
}

// order runs a command that replaces the task.
func (w *writers) order(what string, h dev.Host) {
	w.t.Helper()
	w.updates++
	switch what {
	case "update":
		w.retry(what, "service", "update", "--detach", "--env-add", fmt.Sprintf("N=%d", w.updates), "db")
	case "reject":
		w.retry(what, "service", "update", "--detach", "--update-failure-action", []string{"pause", "rollback"}[w.IntN(2)],
			"--mount-add", "type=bind,source=/no/such/folder,target=/x", "db")
	case "drain":
		w.retry(what, "node", "update", "--availability", "drain", h.Name)
	}
}

// retry runs a command until the managers accept it. There may be no leader for a moment.
func (w *writers) retry(what string, args ...string) {
	w.t.Helper()
	w.eventually(what, func() error {
		_, err := w.run(args...)
		return err
	})
}

// waitTask waits until the service has one task that runs and writes.
func (w *writers) waitTask() (now psRow) {
	w.t.Helper()
	w.eventually("db runs", func() (err error) {
		now, err = w.runs()
		return err
	})
	return now
}

// runs returns the running task of the service. The managers must report it as running, and its
// container must write.
func (w *writers) runs() (psRow, error) {
	rows, err := w.ps("db")
	if err != nil {
		return psRow{}, err
	}
	i := slices.IndexFunc(rows, func(r psRow) bool { return strings.HasPrefix(r.state, "Running") })
	if i < 0 {
		return psRow{}, fmt.Errorf("no task runs: %v", rows)
	}
	text, err := os.ReadFile(filepath.Join(w.folder, "db"))
	if err != nil {
		return psRow{}, err
	}
	lines := strings.Fields(string(text))
	if last := lines[len(lines)-1]; !strings.HasPrefix(rows[i].id, last) {
		return psRow{}, fmt.Errorf("task %s runs, and container %s writes", rows[i].id, last)
	}
	return rows[i], nil
}

// written reads the file that the containers write. It returns their ids in order, and how often
// one wrote after another one had begun.
func (w *writers) written() (ids []string, overlaps int) {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.folder, "db"))
	w.must(err)
	for _, id := range strings.Fields(string(text)) {
		switch {
		case len(ids) > 0 && ids[len(ids)-1] == id:
		case slices.Contains(ids, id):
			overlaps++
		default:
			ids = append(ids, id)
		}
	}
	if overlaps > 0 {
		w.t.Errorf("containers in the order in which they began: %v; %d lines of one after a line of the next, want 0", ids, overlaps)
	}
	return ids, overlaps
}

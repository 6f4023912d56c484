package scenarios

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"swarm/dev"
	"swarm/scenarios/traffic"
)

const (
	// heldAtOnce is the number of connections that are kept open through service addresses, and the
	// number of those through the routing mesh.
	heldAtOnce = 50
	// lookupEvery is the interval at which containers resolve names.
	lookupEvery = 50 * time.Millisecond
	// staleFor bounds how long names and service addresses may be stale after a new task runs, on a
	// machine with five daemons. `make bench ONLY=net` measures a healthy cluster.
	staleFor = 5 * time.Second
	// overlapFor bounds how long after a task's end an observer may still see its address. The
	// address is withdrawn everywhere before the task is told to stop. The bound allows for two
	// observers that do not see the same moment.
	overlapFor = time.Second
	// transferred is the size in bytes of the transfer during which daemons are killed.
	transferred = 1 << 30
)

// observers has watches in containers, and watches on this machine, which is outside of the
// cluster.
type observers struct {
	c       *testCluster
	name    string
	members []member
	outside map[string]func() traffic.Report
}

// observe starts watches in containers. The name distinguishes them from the watches of other
// observers.
func (c *testCluster) observe(name string, from []member, watches ...traffic.Watch) *observers {
	c.t.Helper()
	o := &observers{c: c, name: name, members: from, outside: map[string]func() traffic.Report{}}
	for _, m := range from {
		for _, w := range watches {
			w.Name = name + " " + w.Name
			if err := m.Watch(c.ctx, w); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	return o
}

// reports returns what each watch has recorded so far.
func (o *observers) reports() map[string]traffic.Report {
	o.c.t.Helper()
	all := map[string]traffic.Report{}
	for _, m := range o.members {
		seen, err := m.Reports(o.c.ctx)
		if err != nil {
			o.c.t.Fatalf("%s on %s: %v", m.name, m.node, err)
		}
		for name, r := range seen {
			if strings.HasPrefix(name, o.name+" ") {
				all[name+" in "+m.name+" on "+m.node] = r
			}
		}
	}
	for name, seen := range o.outside {
		all[name] = seen()
	}
	return all
}

// requireNoFailures fails the test for each failure that a watch recorded. It returns the number of
// queries.
func (o *observers) requireNoFailures() int {
	o.c.t.Helper()
	asked, failures := o.seen()
	for _, f := range failures {
		o.c.t.Error(f)
	}
	return asked
}

// seen returns the number of queries and the failures.
func (o *observers) seen() (asked int, failures []string) {
	o.c.t.Helper()
	for who, r := range o.reports() {
		asked += r.Asked
		if r.Asked == 0 {
			o.c.t.Errorf("%s: the watch has made no query", who)
		}
		for _, f := range r.Failures {
			failures = append(failures, fmt.Sprintf("%s: %v", who, f))
		}
	}
	return asked, failures
}

// testKills kills the daemon of every host in turn while containers resolve names, keep connections
// open and transfer data. None of them may fail. KILLS is the number of kills, by default one for
// each host.
func testKills(t *testing.T, c *testCluster) {
	kills := int(envNumber(t, "KILLS", uint64(len(c.hosts))))
	red := c.members("red")
	web := red.of("web")
	o := c.observe("kills", web,
		traffic.Watch{Name: "service", Kind: "resolve", Target: traffic.Target{Address: "api"}, Every: lookupEvery},
		traffic.Watch{Name: "tasks", Kind: "resolve", Target: traffic.Target{Address: "tasks.api"}, Every: lookupEvery},
		traffic.Watch{Name: "hold", Kind: "hold", Target: traffic.Target{Network: "tcp", Address: "api:" + echoPort}, Every: 4 * lookupEvery, Count: heldAtOnce / len(web)},
		traffic.Watch{Name: "datagrams", Kind: "hold", Target: traffic.Target{Network: "udp", Address: "api:" + echoPort}, Every: 4 * lookupEvery, Count: 2},
		traffic.Watch{Name: "new", Kind: "reach", Target: traffic.Target{Network: "tcp", Address: "api:" + echoPort}, Every: 4 * lookupEvery})
	for _, h := range c.hosts {
		at := traffic.Target{Network: "tcp", Address: net.JoinHostPort(h.Address.String(), meshPort)}
		o.watchOutside("mesh hold "+h.Name, traffic.Watch{Kind: "hold", Target: at, Every: 4 * lookupEvery, Count: heldAtOnce / len(c.hosts)})
		o.watchOutside("mesh new "+h.Name, traffic.Watch{Kind: "reach", Target: at, Every: 4 * lookupEvery})
		at.Address = net.JoinHostPort(h.Address6.String(), meshPort)
		o.watchOutside("mesh IPv6 "+h.Name, traffic.Watch{Kind: "reach", Target: at, Every: 4 * lookupEvery})
	}
	got := make(chan error)
	go func() { got <- transfer(c, web[0], kills) }()
	for i := range kills {
		host := c.hosts[i%len(c.hosts)]
		if err := c.playground.Kill(c.ctx, host.Name); err != nil {
			t.Fatal(err)
		}
		c.start(host)
		c.waitReady(host)
	}
	if err := <-got; err != nil {
		t.Error("transfer: ", err)
	}
	asked := o.requireNoFailures()
	open := 0
	for _, r := range o.reports() {
		open += r.Open
	}
	t.Logf("%d kills: %d lookups and echoes, %d connections open", kills, asked, open)
	if want := 2*heldAtOnce + 2*len(web); open != want {
		t.Errorf("%d connections are open, want %d", open, want)
	}
	c.reach(red.members, allTargets(red))
}

func (o *observers) watchOutside(name string, w traffic.Watch) {
	o.c.t.Helper()
	seen, err := traffic.Begin(o.c.t.Context(), traffic.Dial, w)
	if err != nil {
		o.c.t.Fatal(err)
	}
	o.outside[o.name+" "+name] = seen
}

// transfer fetches a large page through a service address, slowly enough that all kills happen
// during the transfer.
func transfer(c *testCluster, to member, kills int) error {
	spread := max(5*time.Second, time.Duration(kills)*time.Second)
	n, err := to.Fetch(c.ctx, fmt.Sprintf("http://api:8080/bytes/%d?in=%s", transferred, spread))
	if err == nil && n != transferred {
		err = fmt.Errorf("%d bytes came, want %d", n, transferred)
	}
	return err
}

// waitReady waits until the first three hosts, the managers, list the host as ready.
func (c *testCluster) waitReady(h dev.Host) {
	c.t.Helper()
	c.eventually("ready "+h.Name, func() error {
		for _, at := range c.hosts[:3] {
			out, err := c.runAt(at, "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
			if err != nil {
				return err
			}
			if !strings.Contains(out, h.Name+" Ready") {
				return fmt.Errorf("node ls on %s: %s", at.Name, out)
			}
		}
		return nil
	})
}

// eventually retries until try succeeds, and fails the test at the deadline.
func (c *testCluster) eventually(what string, try func() error) {
	c.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: %v", what, err)
		}
		<-time.After(100 * time.Millisecond) // the interval of the poll
	}
}

// testMoved drains a host. Its task moves to another host, and all lookups and connections must
// then find it only there.
func testMoved(t *testing.T, c *testCluster) {
	red := c.members("red")
	drained := c.hosts[4].Name
	var old member
	for _, m := range red.of("api") {
		if m.node == drained {
			old = m
		}
	}
	if old.id == "" {
		t.Fatalf("no task of api on %s: %v", drained, red.members)
	}
	from := slices.DeleteFunc(red.of("web"), func(m member) bool { return m.node == drained })[:2]
	often := 10 * time.Millisecond
	o := c.observe("moved", from,
		traffic.Watch{Name: "service", Kind: "resolve", Target: traffic.Target{Address: "api"}, Every: often},
		traffic.Watch{Name: "tasks", Kind: "resolve", Target: traffic.Target{Address: "tasks.api"}, Every: often},
		traffic.Watch{Name: "new", Kind: "reach", Target: traffic.Target{Network: "tcp", Address: "api:" + echoPort}, Every: often})
	task := c.observe("task", from[:1],
		traffic.Watch{Name: "old", Kind: "reach", Target: traffic.Target{Network: "tcp", Address: net.JoinHostPort(old.addresses[0], echoPort)}, Every: often})
	c.swarm("node", "update", "--availability", "drain", drained)
	var moved member
	c.eventually("api moves", func() error {
		now := c.members("red").of("api")
		i := slices.IndexFunc(now, func(m member) bool {
			return !slices.ContainsFunc(red.members, func(b member) bool { return b.id == m.id })
		})
		if i < 0 || len(now) != len(c.hosts) {
			return fmt.Errorf("tasks of api: %v", now)
		}
		moved = now[i]
		return nil
	})
	began := c.runningSince(moved.id)
	c.eventually("the old task is silent", func() error { return task.silent(old.hostname()) })
	ended := task.lastAnswer(old.hostname())
	c.eventually("names lead to the new task", func() error { return o.checkMove(old, moved, began, ended) })
	o.requireNoFailures()
	c.swarm("node", "update", "--availability", "active", drained)
	now := c.waitMembers("red", len(red.members)) // The global service runs on the host again.
	c.eventuallyReach(now.members, allTargets(now))
}

// runningSince returns when the task's container started to run.
func (c *testCluster) runningSince(id string) time.Time {
	c.t.Helper()
	text := strings.TrimSpace(c.swarm("task", "inspect", "--format", "{{.Status.Timestamp}}", id))
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		c.t.Fatal(err)
	}
	return at
}

// silent succeeds once a host has not answered for a while.
func (o *observers) silent(host string) error {
	if quiet := time.Since(o.lastAnswer(host)); quiet < staleFor {
		return fmt.Errorf("%s answered %v ago", host, quiet)
	}
	return nil
}

// lastAnswer returns the last time at which a watch got the given answer.
func (o *observers) lastAnswer(answer string) time.Time {
	var last time.Time
	for _, r := range o.reports() {
		if at := r.Last[answer]; at.After(last) {
			last = at
		}
	}
	return last
}

// checkMove compares the times of the answers with the end of the old task and the start of the new
// one.
func (o *observers) checkMove(old, moved member, began, ended time.Time) error {
	for who, r := range o.reports() {
		for answer, last := range r.Last {
			is := slices.Contains(strings.Fields(answer), old.addresses[0]) || answer == old.hostname()
			if late := last.Sub(ended); is && late > overlapFor {
				o.c.t.Errorf("%s: got %q %v after the task ended, want at most %v after it", who, answer, late, overlapFor)
			}
		}
		answers := slices.Collect(maps.Keys(r.Last))
		switch {
		case strings.Contains(who, " tasks "):
			i := slices.IndexFunc(r.Changes, func(e traffic.Event) bool { return slices.Contains(strings.Fields(e.What), moved.addresses[0]) })
			if i < 0 {
				return fmt.Errorf("%s: %s is not yet among %v", who, moved.addresses[0], answers)
			}
			late := r.Changes[i].At.Sub(began)
			if late > staleFor {
				o.c.t.Errorf("%s: the new task's address came %v after the task ran, want at most %v", who, late, staleFor)
			}
			o.c.t.Logf("%s: %d lookups, new task after %v, %d answers", who, r.Asked, late.Round(time.Millisecond), len(answers))
		case strings.Contains(who, " service ") && len(answers) != 1:
			o.c.t.Errorf("%s: the service's address changed: %v", who, answers)
		case strings.Contains(who, " new ") && !slices.Contains(answers, moved.hostname()):
			return fmt.Errorf("%s: %s has not answered yet", who, moved.name)
		}
	}
	return nil
}

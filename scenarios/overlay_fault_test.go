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
	// heldAtOnce is how many connections are kept open through service addresses, and as many through the routing mesh.
	heldAtOnce = 50
	// lookupEvery is how often the containers resolve names.
	lookupEvery = 50 * time.Millisecond
	// follows is how long after a task runs names and service addresses may be those before it, on a machine with five daemons.
	// What a healthy cluster takes is measured by `make bench ONLY=net`.
	follows = 5 * time.Second
	// lingers is how long after a task has ended one may seem to be given it: it is withdrawn everywhere before it is told to
	// stop, and what is allowed here is that two who watch do not see the same moment.
	lingers = time.Second
	// transferred is the size of the transfer in whose middle daemons are killed.
	transferred = 1 << 30
)

// observers are containers that watch, and watches of this machine, from outside.
type observers struct {
	c       *crowd
	name    string
	members []member
	outside map[string]func() traffic.Report
}

// observe begins watches, of names of their own, in containers.
func (c *crowd) observe(name string, from []member, watches ...traffic.Watch) *observers {
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

// reports are what was seen so far, by who has seen it.
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

// unbroken fails the test for everything that has failed, and returns how much was asked.
func (o *observers) unbroken() int {
	o.c.t.Helper()
	asked, failures := o.seen()
	for _, f := range failures {
		o.c.t.Error(f)
	}
	return asked
}

// seen is how much was asked, and what has failed.
func (o *observers) seen() (asked int, failures []string) {
	o.c.t.Helper()
	for who, r := range o.reports() {
		asked += r.Asked
		if r.Asked == 0 {
			o.c.t.Errorf("%s: has asked nothing", who)
		}
		for _, f := range r.Failures {
			failures = append(failures, fmt.Sprintf("%s: %v", who, f))
		}
	}
	return asked, failures
}

// testKills kills the daemon of every host in turn while containers resolve names, keep connections open and transfer: they
// notice nothing. KILLS is how often, default once a host.
func testKills(t *testing.T, c *crowd) {
	kills := int(number(t, "KILLS", uint64(len(c.hosts))))
	red := c.population("red")
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
		c.joined(host)
	}
	if err := <-got; err != nil {
		t.Error("transfer: ", err)
	}
	asked := o.unbroken()
	open := 0
	for _, r := range o.reports() {
		open += r.Open
	}
	t.Logf("%d kills: %d lookups and echoes, %d connections open", kills, asked, open)
	if want := 2*heldAtOnce + 2*len(web); open != want {
		t.Errorf("%d connections are open, want %d", open, want)
	}
	c.reach(red.members, everybody(red))
}

func (o *observers) watchOutside(name string, w traffic.Watch) {
	o.c.t.Helper()
	seen, err := traffic.Begin(o.c.t.Context(), traffic.Dial, w)
	if err != nil {
		o.c.t.Fatal(err)
	}
	o.outside[o.name+" "+name] = seen
}

// transfer fetches a lot through a service address, slowly enough for every kill to be in its middle.
func transfer(c *crowd, to member, kills int) error {
	spread := max(5*time.Second, time.Duration(kills)*time.Second)
	n, err := to.Fetch(c.ctx, fmt.Sprintf("http://api:8080/bytes/%d?in=%s", transferred, spread))
	if err == nil && n != transferred {
		err = fmt.Errorf("%d bytes came, want %d", n, transferred)
	}
	return err
}

// joined waits until the managers hear the host.
func (c *crowd) joined(h dev.Host) {
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

// eventually waits for what shall become true.
func (c *crowd) eventually(what string, try func() error) {
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
		<-time.After(100 * time.Millisecond) // The interval of the poll.
	}
}

// testMoved drains a host: the task that was there is elsewhere, and whoever asks for it finds it there, and nowhere else.
func testMoved(t *testing.T, c *crowd) {
	red := c.population("red")
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
		now := c.population("red").of("api")
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
	c.eventually("names follow", func() error { return o.follows(old, moved, began, ended) })
	o.unbroken()
	c.swarm("node", "update", "--availability", "active", drained)
	now := c.settled("red", len(red.members)) // The global service is back.
	c.reached(now.members, everybody(now))
}

// runningSince is when the task's container ran.
func (c *crowd) runningSince(id string) time.Time {
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
	if quiet := time.Since(o.lastAnswer(host)); quiet < follows {
		return fmt.Errorf("%s answered %v ago", host, quiet)
	}
	return nil
}

// lastAnswer is when somebody had an answer for the last time.
func (o *observers) lastAnswer(answer string) time.Time {
	var last time.Time
	for _, r := range o.reports() {
		if at := r.Last[answer]; at.After(last) {
			last = at
		}
	}
	return last
}

// follows compares what was answered, and when, with a task's end and the beginning of the one after it.
func (o *observers) follows(old, moved member, began, ended time.Time) error {
	for who, r := range o.reports() {
		for answer, last := range r.Last {
			is := slices.Contains(strings.Fields(answer), old.addresses[0]) || answer == old.hostname()
			if late := last.Sub(ended); is && late > lingers {
				o.c.t.Errorf("%s: %q %v after the task ended", who, answer, late)
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
			if late > follows {
				o.c.t.Errorf("%s: the new task's address came %v after it ran", who, late)
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

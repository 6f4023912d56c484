package scenarios

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"swarm/dev"
	"swarm/scenarios/traffic"
)

const (
	// quiet is how long nothing may fail once a fault is known.
	quiet = 3 * time.Second
	// suspicion is longer than gossip takes to call dead what it does not hear.
	suspicion = 8 * time.Second
)

// askers are watches of the service api: its name, its tasks', and new connections.
func askers() []traffic.Watch {
	return []traffic.Watch{
		{Name: "service", Kind: "resolve", Target: traffic.Target{Address: "api"}, Every: lookupEvery},
		{Name: "tasks", Kind: "resolve", Target: traffic.Target{Address: "tasks.api"}, Every: lookupEvery},
		{Name: "new", Kind: "reach", Target: traffic.Target{Network: "tcp", Address: "api:" + echoPort}, Every: lookupEvery},
	}
}

// apart parts members by whether they are on a host.
func apart(all []member, host string) (on, elsewhere []member) {
	for _, m := range all {
		if m.node == host {
			on = append(on, m)
		} else {
			elsewhere = append(elsewhere, m)
		}
	}
	return on, elsewhere
}

// testCutOff cuts a host off: nobody is sent to its tasks once that is known, and they are back when it is.
func testCutOff(t *testing.T, c *crowd) {
	red, lost := c.workerWith("api")
	inside, from := apart(red.of("web"), lost.Name)
	o := c.observe("cutoff", from[:2], askers()...)
	alone := c.observe("alone", inside, askers()[:2]...)
	if err := c.playground.Cut(dev.Cut{Hosts: []string{lost.Name}}); err != nil {
		t.Fatal(err)
	}
	o.forsake(red, lost)
	if err := c.playground.Heal(); err != nil {
		t.Fatal(err)
	}
	c.joined(lost)
	c.reachable("red", len(red.members))
	now := c.population("red")
	if still, _ := apart(now.members, lost.Name); slices.ContainsFunc(inside, func(m member) bool { return !slices.ContainsFunc(still, m.is) }) {
		t.Logf("tasks that were cut off were replaced: %v", still)
	} else {
		alone.unbroken()
	}
}

// workerWith is who is on the network red, and a host that is no manager, with a task of a service there.
func (c *crowd) workerWith(service string) (population, dev.Host) {
	c.t.Helper()
	red := c.settled("red", 2*len(c.hosts)) // What went before may still be replaced.
	for _, h := range c.hosts[3:] {
		if on, _ := apart(red.of(service), h.Name); len(on) > 0 {
			return red, h
		}
	}
	c.t.Fatalf("no worker has a task of %s: %v", service, red.members)
	return red, dev.Host{}
}

func (m member) is(o member) bool { return m.id == o.id }

// forsake waits until nobody is told of the tasks of lost hosts, and then sees that nothing fails any more.
func (o *observers) forsake(before population, lost ...dev.Host) {
	o.c.t.Helper()
	began := time.Now()
	var (
		names []string
		on    []member
	)
	for _, h := range lost {
		there, _ := apart(before.of("api"), h.Name)
		names, on = append(names, h.Name), append(on, there...)
	}
	o.c.eventually(fmt.Sprint("nobody is sent to ", names), func() error {
		for who, r := range o.reports() {
			n := len(r.Changes)
			if n == 0 {
				return fmt.Errorf("%s has no answer yet: %v", who, r.Failures)
			}
			if strings.Contains(who, " tasks ") {
				for _, m := range on {
					if slices.Contains(strings.Fields(r.Changes[n-1].What), m.addresses[0]) {
						return fmt.Errorf("%s: %v", who, r.Changes[n-1])
					}
				}
			}
		}
		return nil
	})
	took := time.Since(began)
	<-time.After(time.Second) // Attempts that began before may yet fail.
	known := time.Now()
	<-time.After(quiet) // What is watched.
	failed := 0
	for who, r := range o.reports() {
		for _, f := range r.Failures {
			failed++
			if f.At.After(known) || !strings.Contains(who, " new ") {
				o.c.t.Errorf("%s: %v", who, f)
			}
		}
	}
	o.c.t.Logf("%v: nobody is sent there after %v; %d connections failed before", names, took.Round(10*time.Millisecond), failed)
}

// testQuorumLost takes the managers their majority: traffic and names go on. Then it takes them their power: the others forsake
// them, though they are most of the cluster.
func testQuorumLost(t *testing.T, c *crowd) {
	red, lost := c.workerWith("api")
	_, from := apart(red.of("web"), lost.Name)
	managers, workers := c.hosts[:3], c.hosts[3:]
	held := askers()
	held = append(held, traffic.Watch{Name: "hold", Kind: "hold", Target: traffic.Target{Network: "tcp", Address: "api:" + echoPort}, Every: 4 * lookupEvery, Count: 4})
	o := c.observe("quorum", from, held...)
	for _, pair := range [][]string{{"node1", "node2"}, {"node1", "node3"}, {"node2", "node3"}} {
		if err := c.playground.Cut(dev.Cut{Hosts: pair, Port: 2377, Protocol: "tcp"}); err != nil {
			t.Fatal(err)
		}
	}
	c.eventually("the managers have no leader", func() error {
		if _, err := c.run("node", "update", "--label-add", "leader=yes", lost.Name); err == nil {
			return fmt.Errorf("they have")
		}
		return nil
	})
	c.reach(red.members, everybody(red))
	<-time.After(quiet) // What is watched.
	o.unbroken()

	var alive []member
	for _, h := range workers {
		on, _ := apart(red.of("web"), h.Name)
		alive = append(alive, on...)
	}
	two := c.observe("dead", alive, askers()...)
	for _, h := range managers {
		if err := c.playground.PowerOff(c.ctx, h.Name); err != nil {
			t.Fatal(err)
		}
	}
	two.forsake(red, managers...)
	if err := c.playground.Heal(); err != nil {
		t.Fatal(err)
	}
	for _, h := range managers {
		c.start(h)
	}
	c.reachable("red", len(red.members))
}

// testGossipBlocked blocks gossip's datagrams everywhere: that everybody seems dead to everybody is not believed.
func testGossipBlocked(t *testing.T, c *crowd) {
	red := c.population("red")
	o := c.observe("blocked", red.of("web"), askers()...)
	for _, h := range c.hosts {
		if err := c.playground.Cut(dev.Cut{Hosts: []string{h.Name}, Port: 7946, Protocol: "udp"}); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(suspicion) // What is watched.
	asked := o.unbroken()
	for who, r := range o.reports() {
		if n := len(r.Changes); strings.Contains(who, " tasks ") && n != 1 {
			t.Errorf("%s: %v", who, r.Changes)
		}
	}
	c.reach(red.members, everybody(red))
	if err := c.playground.Heal(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d lookups and connections", asked)
}

// testFull: a subnet that is full says so, with the numbers, and takes the next task when an address is free.
func testFull(t *testing.T, c *crowd) {
	c.swarm("network", "create", "--subnet", "10.60.0.0/29", "tiny")
	c.prober("few", "--network", "tiny", "--replicas", "4")
	c.settled("tiny", 4)
	_, err := c.run("service", "scale", "few=6")
	if err == nil || !strings.Contains(err.Error(), "tiny") {
		t.Errorf("a full network takes more tasks: %v", err)
	}
	t.Logf("full: %v", err)
	tiny := c.population("tiny")
	c.reached(tiny.members, everybody(tiny))
	c.swarm("service", "scale", "few=2")
	c.prober("more", "--network", "tiny", "--endpoint-mode", "dnsrr", "--replicas", "2")
	c.eventually("two tasks of each service", func() (err error) {
		if tiny, err = c.findPopulation("tiny"); err != nil || len(tiny.of("few")) != 2 || len(tiny.of("more")) != 2 {
			return fmt.Errorf("%v %w", tiny.members, err)
		}
		return nil
	})
	c.reached(tiny.members, everybody(tiny))
	c.swarm("service", "rm", "few", "more")
	c.eventually("tiny is removed", func() error { _, err := c.run("network", "rm", "tiny"); return err })
}

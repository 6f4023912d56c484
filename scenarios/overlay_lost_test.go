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
	// quiet is the time during which nothing may fail once the cluster has detected a fault.
	quiet = 3 * time.Second
	// suspicion is longer than gossip takes to report a silent host as dead.
	suspicion = 8 * time.Second
)

// apiWatches watch the service api: its name, the name of its tasks, and new connections.
func apiWatches() []traffic.Watch {
	return []traffic.Watch{
		{Name: "service", Kind: "resolve", Target: traffic.Target{Address: "api"}, Every: lookupEvery},
		{Name: "tasks", Kind: "resolve", Target: traffic.Target{Address: "tasks.api"}, Every: lookupEvery},
		{Name: "new", Kind: "reach", Target: traffic.Target{Network: "tcp", Address: "api:" + echoPort}, Every: lookupEvery},
	}
}

// splitByHost divides members into those on a host and those elsewhere.
func splitByHost(all []member, host string) (on, elsewhere []member) {
	for _, m := range all {
		if m.node == host {
			on = append(on, m)
		} else {
			elsewhere = append(elsewhere, m)
		}
	}
	return on, elsewhere
}

// testCutOff cuts a host off. Once the cluster has detected this, names and addresses must not lead
// to its tasks. After the cut ends they must do so again.
func testCutOff(t *testing.T, c *testCluster) {
	red, lost := c.workerWith("api")
	inside, from := splitByHost(red.of("web"), lost.Name)
	o := c.observe("cutoff", from[:2], apiWatches()...)
	alone := c.observe("alone", inside, apiWatches()[:2]...)
	if err := c.playground.Cut(dev.Cut{Hosts: []string{lost.Name}}); err != nil {
		t.Fatal(err)
	}
	o.waitWithdrawn(red, lost)
	if err := c.playground.Heal(); err != nil {
		t.Fatal(err)
	}
	c.waitReady(lost)
	c.eventuallyAllReach("red", len(red.members))
	now := c.members("red")
	if still, _ := splitByHost(now.members, lost.Name); slices.ContainsFunc(inside, func(m member) bool { return !slices.ContainsFunc(still, m.is) }) {
		t.Logf("tasks that were cut off were replaced: %v", still)
	} else {
		alone.requireNoFailures()
	}
}

// workerWith returns the tasks on the network red, and a worker host that runs a task of the
// service.
func (c *testCluster) workerWith(service string) (networkMembers, dev.Host) {
	c.t.Helper()
	red := c.waitMembers("red", 2*len(c.hosts)) // Tasks of earlier steps may still be replaced.
	for _, h := range c.hosts[3:] {
		if on, _ := splitByHost(red.of(service), h.Name); len(on) > 0 {
			return red, h
		}
	}
	c.t.Fatalf("no worker has a task of %s: %v", service, red.members)
	return red, dev.Host{}
}

func (m member) is(o member) bool { return m.id == o.id }

// waitWithdrawn waits until names no longer include the tasks of lost hosts. It then checks that
// nothing fails during the time quiet.
func (o *observers) waitWithdrawn(before networkMembers, lost ...dev.Host) {
	o.c.t.Helper()
	began := time.Now()
	var (
		names []string
		on    []member
	)
	for _, h := range lost {
		there, _ := splitByHost(before.of("api"), h.Name)
		names, on = append(names, h.Name), append(on, there...)
	}
	o.c.eventually(fmt.Sprint("names no longer lead to ", names), func() error {
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
	<-time.After(time.Second) // Connections that began earlier may still fail.
	known := time.Now()
	<-time.After(quiet) // The watches must not fail during this time.
	failed := 0
	for who, r := range o.reports() {
		for _, f := range r.Failures {
			failed++
			if f.At.After(known) || !strings.Contains(who, " new ") {
				o.c.t.Errorf("%s: %v", who, f)
			}
		}
	}
	o.c.t.Logf("%v: names no longer lead there after %v; %d connections failed before", names, took.Round(10*time.Millisecond), failed)
}

// testQuorumLost blocks Raft between the managers, so that there is no leader: traffic and names
// must go on. It then powers the managers off: the other hosts must withdraw the managers' tasks,
// although the managers are most of the cluster.
func testQuorumLost(t *testing.T, c *testCluster) {
	red, lost := c.workerWith("api")
	_, from := splitByHost(red.of("web"), lost.Name)
	managers, workers := c.hosts[:3], c.hosts[3:]
	held := apiWatches()
	held = append(held, traffic.Watch{Name: "hold", Kind: "hold", Target: traffic.Target{Network: "tcp", Address: "api:" + echoPort}, Every: 4 * lookupEvery, Count: 4})
	o := c.observe("quorum", from, held...)
	for _, pair := range [][]string{{"node1", "node2"}, {"node1", "node3"}, {"node2", "node3"}} {
		if err := c.playground.Cut(dev.Cut{Hosts: pair, Port: 2377, Protocol: "tcp"}); err != nil {
			t.Fatal(err)
		}
	}
	c.eventually("the managers have no leader", func() error {
		if _, err := c.run("node", "update", "--label-add", "leader=yes", lost.Name); err == nil {
			return fmt.Errorf("a write succeeds, want no leader")
		}
		return nil
	})
	c.reach(red.members, allTargets(red))
	<-time.After(quiet) // The watches must not fail during this time.
	o.requireNoFailures()

	var alive []member
	for _, h := range workers {
		on, _ := splitByHost(red.of("web"), h.Name)
		alive = append(alive, on...)
	}
	two := c.observe("dead", alive, apiWatches()...)
	for _, h := range managers {
		if err := c.playground.PowerOff(c.ctx, h.Name); err != nil {
			t.Fatal(err)
		}
	}
	two.waitWithdrawn(red, managers...)
	if err := c.playground.Heal(); err != nil {
		t.Fatal(err)
	}
	for _, h := range managers {
		c.start(h)
	}
	c.eventuallyAllReach("red", len(red.members))
}

// testGossipBlocked blocks the UDP packets of gossip on all hosts. Each host then suspects all
// others, and none may withdraw their tasks.
func testGossipBlocked(t *testing.T, c *testCluster) {
	red := c.members("red")
	o := c.observe("blocked", red.of("web"), apiWatches()...)
	for _, h := range c.hosts {
		if err := c.playground.Cut(dev.Cut{Hosts: []string{h.Name}, Port: 7946, Protocol: "udp"}); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(suspicion) // The watches must not fail during this time.
	asked := o.requireNoFailures()
	for who, r := range o.reports() {
		if n := len(r.Changes); strings.Contains(who, " tasks ") && n != 1 {
			t.Errorf("%s: %v", who, r.Changes)
		}
	}
	c.reach(red.members, allTargets(red))
	if err := c.playground.Heal(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d lookups and connections", asked)
}

// testFull checks that a full subnet refuses more tasks, with an error that names the network, and
// that tasks of another service start when addresses are free.
func testFull(t *testing.T, c *testCluster) {
	c.swarm("network", "create", "--subnet", "10.60.0.0/29", "tiny")
	c.prober("few", "--network", "tiny", "--replicas", "4")
	c.waitMembers("tiny", 4)
	_, err := c.run("service", "scale", "few=6")
	if err == nil || !strings.Contains(err.Error(), "tiny") {
		t.Errorf("scale beyond a full subnet: got %v, want an error that names network tiny", err)
	}
	t.Logf("full: %v", err)
	tiny := c.members("tiny")
	c.eventuallyReach(tiny.members, allTargets(tiny))
	c.swarm("service", "scale", "few=2")
	c.prober("more", "--network", "tiny", "--endpoint-mode", "dnsrr", "--replicas", "2")
	c.eventually("two tasks of each service", func() (err error) {
		if tiny, err = c.findMembers("tiny"); err != nil || len(tiny.of("few")) != 2 || len(tiny.of("more")) != 2 {
			return fmt.Errorf("%v %w", tiny.members, err)
		}
		return nil
	})
	c.eventuallyReach(tiny.members, allTargets(tiny))
	c.swarm("service", "rm", "few", "more")
	c.eventually("tiny is removed", func() error { _, err := c.run("network", "rm", "tiny"); return err })
}

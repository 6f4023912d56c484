package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"swarm/internal/pause"
	"swarm/scenarios/traffic"
)

// These are the delay and the loss of the line, in each direction.
const (
	delay = "50ms"
	loss  = "5%"
	// badFor is the duration of the test, and askEvery the interval of its queries.
	badFor   = time.Minute
	askEvery = time.Second
)

// badLine delays and drops packets that guests send. Names and addresses must stay correct: an
// answer may be late or lost, but never wrong.
func badLine(ctx context.Context, l *lab) (string, error) {
	p, err := l.population(ctx)
	if err != nil {
		return "", err
	}
	for _, m := range p.all() {
		for _, w := range p.watches() {
			if err := m.Watch(ctx, w.Watch); err != nil {
				return "", err
			}
		}
	}
	for _, g := range l.guests {
		if _, err := g.run(ctx, "tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", delay, "loss", loss); err != nil {
			return "", err
		}
	}
	views, err := l.stayReady(ctx)
	if err != nil {
		return "", err
	}
	for _, g := range l.guests {
		if _, err := g.run(ctx, "tc", "qdisc", "del", "dev", "eth0", "root"); err != nil {
			return "", err
		}
	}
	sum, err := p.judge(ctx)
	if err != nil {
		return "", err
	}
	if _, err := eventually(ctx, time.Minute, func(ctx context.Context) error { return l.ready(ctx, l.guests[0], l.guests...) }); err != nil {
		return "", err
	}
	if _, err := l.connected(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s; every node Ready in %d views", sum, views), nil
}

// stayReady lists the nodes on each guest for as long as the line is bad. It fails unless all nodes
// are ready, and returns how often it looked.
func (l *lab) stayReady(ctx context.Context) (views int, err error) {
	for end := time.Now().Add(badFor); time.Now().Before(end); {
		for _, g := range l.guests {
			out, err := g.swarm(ctx, "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
			if err != nil {
				return 0, err
			}
			views++
			for _, n := range l.guests {
				if !strings.Contains(out, n.name+" Ready") {
					return 0, fmt.Errorf("%s sees %s", g.name, strings.ReplaceAll(out, "\n", ", "))
				}
			}
		}
		if err := pause.For(ctx, askEvery); err != nil {
			return 0, err
		}
	}
	return views, nil
}

// watch is a query that a member repeats, and the answers that it may get.
type watch struct {
	traffic.Watch
	right []string
	// lossy is the percentage of queries that may fail. It is 0 for queries that are answered on
	// the same host.
	lossy int
}

// watches returns watches of each service's name, and of the tasks behind it.
func (p population) watches() []watch {
	var all []watch
	add := func(right []string, lossy int, kind, network, address string) {
		name := strings.TrimSpace(kind + " " + network + " " + address)
		all = append(all, watch{traffic.Watch{
			Name: name, Kind: kind, Target: traffic.Target{Network: network, Address: address},
			Every: askEvery, For: badFor + 30*time.Second, Count: 1,
		}, right, lossy})
	}
	for service, vip := range p.vip {
		members := p.members[service]
		var addresses []string
		for _, m := range members {
			addresses = append(addresses, m.address)
			add([]string{m.address}, 0, "resolve", "", m.name)
		}
		slices.Sort(addresses)
		add([]string{vip}, 0, "resolve", "", service)
		add([]string{strings.Join(addresses, " ")}, 0, "resolve", "", "tasks."+service)
		at := net.JoinHostPort(service, echoPort)
		// The line may lose a datagram or its answer. A TCP connection retransmits, so it rarely
		// fails.
		add(hostnames(members), 5, "reach", "tcp", at)
		add(hostnames(members), 25, "reach", "udp", at)
	}
	return all
}

// judge compares what the members have seen with the correct answers.
func (p population) judge(ctx context.Context) (string, error) {
	var wrong error
	asked, lost, seen := map[string]int{}, map[string]int{}, map[string]map[string]bool{}
	for _, m := range p.all() {
		reports, err := m.Reports(ctx)
		if err != nil {
			return "", err
		}
		for _, w := range p.watches() {
			r := reports[w.Name]
			for _, err := range w.mistakes(r) {
				wrong = errors.Join(wrong, fmt.Errorf("%s on %s: %s: %w", m.name, m.node, w.Name, err))
			}
			asked[w.Kind+w.Network] += r.Asked
			lost[w.Kind+w.Network] += len(r.Failures)
			if seen[w.Name] == nil {
				seen[w.Name] = map[string]bool{}
			}
			for answer := range r.Last {
				seen[w.Name][answer] = true
			}
		}
	}
	for _, w := range p.watches() {
		if len(seen[w.Name]) != len(w.right) {
			wrong = errors.Join(wrong, fmt.Errorf("%s: seen %v, want each of %v", w.Name, seen[w.Name], w.right))
		}
	}
	return fmt.Sprintf("%s delay, %s loss: %d look-ups, 0 wrong, %d failed; %d connections and %d datagrams to VIPs, 0 wrong, %d and %d lost",
		delay, loss, asked["resolve"], lost["resolve"], asked["reachtcp"], asked["reachudp"], lost["reachtcp"], lost["reachudp"]), wrong
}

// mistakes returns the wrong answers and the excess failures in a report.
func (w watch) mistakes(r traffic.Report) []error {
	var all []error
	for answer, at := range r.Last {
		if !slices.Contains(w.right, answer) {
			all = append(all, fmt.Errorf("%q at %v, want one of %v", answer, at, w.right))
		}
	}
	for _, f := range r.Failures {
		if w.lossy == 0 || !strings.Contains(f.What, "timeout") {
			all = append(all, errors.New(f.String()))
		}
	}
	// A bad line may always lose one query.
	if n := len(r.Failures); r.Asked == 0 || n > 1 && 100*n > w.lossy*r.Asked {
		all = append(all, fmt.Errorf("%d of %d lost", n, r.Asked))
	}
	return all
}

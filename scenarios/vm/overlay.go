package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"swarm/scenarios/traffic"
)

const (
	// echoPort is the port on which the containers on the network echo.
	echoPort = "9000"
	// meshPort is the published port of the service front, on which every guest answers.
	meshPort = "9090"
	// frontReplicas leaves one guest without a task of front, which must answer nevertheless. The
	// service back has a task on each guest.
	frontReplicas = 2
)

// member is a task on the network.
type member struct {
	id, name, node, address string
	traffic.Client
}

// hostname returns the hostname of the container.
func (m member) hostname() string { return m.id[:12] }

// population has the tasks on the network, by service.
type population struct {
	vip     map[string]string
	members map[string][]member
}

// all returns the tasks of all services.
func (p population) all() []member { return slices.Concat(p.members["front"], p.members["back"]) }

// overlay makes a network with two services across the guests.
func overlay(ctx context.Context, l *lab) (string, error) {
	began := time.Now()
	g := l.guests[0]
	if _, err := g.swarm(ctx, "network", "create", "lan"); err != nil {
		return "", err
	}
	mesh := "published=" + meshPort + ",target=" + echoPort
	for _, args := range [][]string{
		{"--name", "front", "--replicas", strconv.Itoa(frontReplicas), "--publish", mesh, "--publish", mesh + ",protocol=udp"},
		{"--name", "back", "--mode", "global"},
	} {
		create := slices.Concat([]string{"service", "create", "--network", "lan", "--publish", "mode=host,target=8080"}, args, []string{"swarm/hello:1", "-echo", ":" + echoPort})
		if _, err := g.swarm(ctx, create...); err != nil {
			return "", err
		}
	}
	created := time.Since(began)
	tries, err := l.connected(ctx)
	return fmt.Sprintf("%d tasks of two services after %.1f s; %s", frontReplicas+len(l.guests), created.Seconds(), tries), err
}

// connected waits until all tasks on the network reach each other by every name and address, and
// every guest answers for front.
func (l *lab) connected(ctx context.Context) (saw string, err error) {
	_, err = eventually(ctx, time.Minute, func(ctx context.Context) error {
		p, err := l.population(ctx)
		if err != nil {
			return err
		}
		tries, err := p.pairs(ctx)
		if err != nil {
			return err
		}
		published, err := l.published(ctx, p)
		saw = fmt.Sprintf("%d ways between them by name, address and VIP, TCP and UDP; the published port on each guest %d times, with the client's address", tries, published)
		return err
	})
	return saw, err
}

// population queries the tasks on the network.
func (l *lab) population(ctx context.Context) (population, error) {
	out, err := l.guests[0].swarm(ctx, "network", "inspect", "--verbose", "lan")
	if err != nil {
		return population{}, err
	}
	var found []struct {
		Services map[string]struct {
			VIPs  []string
			Tasks []struct {
				Name, ID, Node string
				Addresses      []string
				Ready          bool
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		return population{}, err
	}
	p := population{vip: map[string]string{}, members: map[string][]member{}}
	for service, s := range found[0].Services {
		if p.vip[service], err = only(s.VIPs); err != nil {
			return population{}, err
		}
		rows, err := tasks(ctx, l.guests[0], service)
		if err != nil {
			return population{}, err
		}
		for _, t := range s.Tasks {
			i := slices.IndexFunc(rows, func(r task) bool { return r.id == t.ID })
			if i < 0 || !t.Ready {
				continue
			}
			m := member{id: t.ID, name: t.Name, node: t.Node}
			if m.address, err = only(t.Addresses); err != nil {
				return population{}, err
			}
			if m.URL, err = l.endpoint(rows[i]); err != nil {
				return population{}, err
			}
			p.members[service] = append(p.members[service], m)
		}
	}
	if f, b := len(p.members["front"]), len(p.members["back"]); f != frontReplicas || b != len(l.guests) {
		return population{}, fmt.Errorf("%d and %d tasks on the network, want %d and %d: %v", f, b, frontReplicas, len(l.guests), p.members)
	}
	return p, nil
}

// only returns the one address of a list, without its prefix length.
func only(prefixes []string) (string, error) {
	if len(prefixes) != 1 {
		return "", fmt.Errorf("addresses %v, want one", prefixes)
	}
	p, err := netip.ParsePrefix(prefixes[0])
	return p.Addr().String(), err
}

// expected is a target, with the hostnames of the containers that may answer there.
type expected struct {
	traffic.Target
	hosts []string
}

// echoes returns the targets at an address, over TCP and UDP.
func echoes(address string, from ...member) []expected {
	at := net.JoinHostPort(address, echoPort)
	return []expected{{traffic.Target{Network: "tcp", Address: at}, hostnames(from)}, {traffic.Target{Network: "udp", Address: at}, hostnames(from)}}
}

func hostnames(of []member) []string {
	var all []string
	for _, m := range of {
		all = append(all, m.hostname())
	}
	return all
}

// pairs has every member try every name and address of every member, and returns the number of
// tries.
func (p population) pairs(ctx context.Context) (int, error) {
	var want []expected
	for _, m := range p.all() {
		want = append(want, echoes(m.name, m)...)
		want = append(want, echoes(m.address, m)...)
	}
	for service, vip := range p.vip {
		for _, address := range []string{service, "tasks." + service, vip} {
			want = append(want, echoes(address, p.members[service]...)...)
		}
	}
	targets := make([]traffic.Target, 0, len(want))
	for _, w := range want {
		targets = append(targets, w.Target)
	}
	var all error
	for _, m := range p.all() {
		answers, err := m.Reach(ctx, targets...)
		all = errors.Join(all, err)
		for i, a := range answers {
			if err := want[i].check(a, m.address); err != nil {
				all = errors.Join(all, fmt.Errorf("%s on %s: %w", m.name, m.node, err))
			}
		}
	}
	return len(p.all()) * len(want), all
}

// check compares an answer with the expected hosts, and the client address in it with the member's
// own.
func (e expected) check(a traffic.Answer, client string) error {
	switch {
	case a.Err != "":
		return fmt.Errorf("%s %s: %s", e.Network, e.Address, a.Err)
	case !slices.Contains(e.hosts, a.Host):
		return fmt.Errorf("%s %s: %s answers, want one of %v", e.Network, e.Address, a.Host, e.hosts)
	case a.Client != client:
		return fmt.Errorf("%s %s: seen as %s, is %s", e.Network, e.Address, a.Client, client)
	}
	return nil
}

// published connects to the service front on every guest from outside, until each of its tasks has
// answered there. It returns the number of connections.
func (l *lab) published(ctx context.Context, p population) (int, error) {
	n := 0
	for _, g := range l.guests {
		for _, network := range []string{"tcp", "udp"} {
			want := expected{traffic.Target{Network: network, Address: net.JoinHostPort(g.address, meshPort)}, hostnames(p.members["front"])}
			seen := map[string]bool{}
			for range 50 { // With 50 tries it is practically impossible that only one of two tasks answers.
				if len(seen) == len(want.hosts) {
					break
				}
				a := traffic.Reach(ctx, (&net.Dialer{}).DialContext, want.Target)
				if err := want.check(a, gateway); err != nil {
					return 0, err
				}
				seen[a.Host] = true
				n++
			}
			if len(seen) != len(want.hosts) {
				return 0, fmt.Errorf("%s: only %v ever answered, want each of %v", want.Address, seen, want.hosts)
			}
		}
	}
	return n, nil
}

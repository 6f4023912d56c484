package overlay

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"swarm/bench/figure"
	"swarm/bench/testbed"
	"swarm/dev"
	"swarm/overlay/netns"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// netRounds is the smallest number of pairs of which a ratio is the median.
	netRounds = 7
	// netSpan is the time during which traffic flows in one turn.
	netSpan = time.Second
	netPort = 18080
)

// Network measures everything of one small cluster: Stream, VirtualAddress, Mesh, Attach and then
// Propagation.
func Network(ctx context.Context, e testbed.Env) error {
	if err := measure(ctx, e, (*bench).throughput, (*bench).addresses, (*bench).mesh, (*bench).attach); err != nil {
		return err
	}
	return Propagation(ctx, e)
}

// Stream measures the throughput of one TCP stream over the overlay against one over a VXLAN device
// that was made by hand.
func Stream(ctx context.Context, e testbed.Env) error { return measure(ctx, e, (*bench).throughput) }

// VirtualAddress measures requests to a service's address against requests to the container's own.
func VirtualAddress(ctx context.Context, e testbed.Env) error {
	return measure(ctx, e, (*bench).addresses)
}

// Mesh measures requests to a published port against requests to the container's own address.
func Mesh(ctx context.Context, e testbed.Env) error { return measure(ctx, e, (*bench).mesh) }

// Attach measures what an overlay network adds to the start of a container.
func Attach(ctx context.Context, e testbed.Env) error { return measure(ctx, e, (*bench).attach) }

// measure runs some measurements on one cluster.
func measure(ctx context.Context, e testbed.Env, measurements ...func(*bench, context.Context, int) error) error {
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: 2, Managers: 1, DaemonArgs: testbed.JournalArgs()}, e.Archive)
	if err != nil {
		return err
	}
	defer c.Down()
	n, err := newBench(ctx, c)
	if err != nil {
		return err
	}
	rounds := max(netRounds, e.Rounds)
	for _, one := range measurements {
		if err := one(n, ctx, rounds); err != nil {
			return err
		}
	}
	return nil
}

// bench is one overlay network with clients on the first host and a server on the second.
type bench struct {
	*testbed.Cluster
	// These are the pins of the containers' namespaces. Only the guest calls the service's address,
	// and the client calls all others. Connections of one client to the same server by two
	// addresses would disturb each other, because of ports that were in use shortly before.
	client, guest, server string
	address, virtual      netip.Addr
	network               *swarmv1.Network
}

func newBench(ctx context.Context, c *testbed.Cluster) (*bench, error) {
	info, err := c.Control.CreateNetwork(ctx, &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: "bench"}})
	if err != nil {
		return nil, err
	}
	n := &bench{Cluster: c, network: info.GetNetwork()}
	w, err := testbed.Watch(ctx, c.Control)
	if err != nil {
		return nil, err
	}
	server := n.service("server", "worker")
	server.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 8080, PublishedPort: netPort}}}
	if err := testbed.Create(ctx, c.Control, w, server, 1); err != nil {
		return nil, err
	}
	if n.server, n.address, err = n.place(ctx, "server", n.Nodes[1]); err != nil {
		return nil, err
	}
	for i, pin := range []*string{&n.client, &n.guest} {
		name := []string{"client", "guest"}[i]
		if err := testbed.Create(ctx, c.Control, w, n.service(name, "manager"), 2+i); err != nil {
			return nil, err
		}
		if *pin, _, err = n.place(ctx, name, n.Nodes[0]); err != nil {
			return nil, err
		}
		if err := reusePorts(*pin); err != nil {
			return nil, err
		}
	}
	n.virtual, err = testbed.VirtualIP(ctx, c.Control, "server")
	return n, err
}

// service returns a spec of one replica on the overlay network, on a node of a role.
func (n *bench) service(name, role string) *swarmv1.ServiceSpec {
	spec := testbed.Service(name, 1)
	spec.TaskTemplate.Placement = testbed.OnRole(role)
	spec.TaskTemplate.Networks = []*swarmv1.NetworkAttachmentConfig{{Target: n.network.GetId()}}
	return spec
}

// place finds the namespace and the address of a service's only task.
func (n *bench) place(ctx context.Context, name string, h dev.Host) (pin string, addr netip.Addr, err error) {
	tasks, err := n.Control.ListTasks(ctx, &swarmv1.ListRequest{})
	if err != nil {
		return "", addr, err
	}
	for _, t := range tasks.GetTasks() {
		if t.GetServiceName() != name || len(t.GetTask().GetNetworks()) == 0 {
			continue
		}
		prefix, err := netip.ParsePrefix(t.GetTask().GetNetworks()[0].GetAddresses()[0])
		return filepath.Join(h.RunDir, "netns", t.GetTask().GetId()), prefix.Addr(), err
	}
	return "", addr, fmt.Errorf("service %s has no task with an address", name)
}

// reusePorts lets clients in a namespace use a port again one second after its connection has
// ended, as hosts do that open thousands of connections a second. With the kernel's default of a
// minute the ports are used up after a few turns. The figure would then show how long the kernel
// searches for a free one.
func reusePorts(pin string) error {
	ns, err := netns.Open(pin)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.SetSysctls(map[string]string{"ipv4.tcp_tw_reuse": "1"})
}

// throughput compares one TCP stream over the overlay with one over a bridge and a VXLAN device
// made by hand between the same two hosts.
func (n *bench) throughput(ctx context.Context, rounds int) error {
	b, err := newBareOverlay(ctx, n.Nodes)
	if err != nil {
		return err
	}
	defer b.close()
	ours, bare, err := pairs(rounds,
		func() (float64, error) { return stream(ctx, n.client, n.server, n.address) },
		func() (float64, error) { return stream(ctx, b.ends[0], b.ends[1], b.address) })
	if err != nil {
		return err
	}
	figure.Print("overlay_vs_vxlan", figure.Ratio(ours, bare), "", fmt.Sprintf("one TCP stream, %s of %s Gbit/s, in pairs; goal 0.95", figure.List(ours), figure.List(bare)))
	return nil
}

// addresses compares requests to the service's address with requests to the container's own.
func (n *bench) addresses(ctx context.Context, rounds int) error {
	direct, virtual := url(n.address, 8080), url(n.virtual, 8080)
	for _, v := range []struct {
		name, what string
		fresh      bool
		goal       float64
	}{
		{"vip_vs_direct", "requests/s on kept connections", false, 0.92},
		{"vip_new_vs_direct", "requests/s, each on a new connection", true, 0.9},
	} {
		if err := n.compare(ctx, v.name, v.what, v.goal, rounds, requests{n.guest, virtual, v.fresh}, requests{n.client, direct, v.fresh}); err != nil {
			return err
		}
	}
	return nil
}

// mesh compares requests to a port that the client's own node publishes for a container on the
// other node with requests to that container itself. Both cross the same two hosts. It fails unless
// the container sees the client's address.
func (n *bench) mesh(ctx context.Context, rounds int) error {
	published := url(n.Nodes[0].Address, netPort)
	seen, err := inside(ctx, n.Nodes[0].Namespace, "curl", "-sS", "--max-time", "5", published+"client")
	if err != nil {
		return err
	}
	if want := n.Nodes[0].Address.String(); !strings.HasPrefix(seen, want+":") {
		return fmt.Errorf("the container saw the client as %q, want %s", strings.TrimSpace(seen), want)
	}
	return n.compare(ctx, "mesh_vs_direct", "requests/s on kept connections, the client's address kept", 0.85, rounds,
		requests{n.Nodes[0].Namespace, published, false}, requests{n.client, url(n.address, 8080), false})
}

// pairs measures both sides in each round, in short turns, and changes which side is first. Other
// work of the machine changes more slowly, so that it disturbs both sides alike.
func pairs(rounds int, ours, bare func() (float64, error)) (a, b []float64, err error) {
	const turns = 4
	for range rounds {
		var sums [2]float64
		for turn := range turns {
			for _, side := range [2]int{turn % 2, 1 - turn%2} {
				v, err := []func() (float64, error){ours, bare}[side]()
				if err != nil {
					return nil, nil, fmt.Errorf("%s: %w", [2]string{"ours", "bare"}[side], err)
				}
				sums[side] += v / turns
			}
		}
		a, b = append(a, sums[0]), append(b, sums[1])
	}
	return a, b, nil
}

// requests are HTTP requests from one namespace to one URL.
type requests struct {
	pin, url string
	fresh    bool
}

func (n *bench) compare(ctx context.Context, name, what string, goal float64, rounds int, ours, bare requests) error {
	a, b, err := pairs(rounds, func() (float64, error) { return ours.rate(ctx) }, func() (float64, error) { return bare.rate(ctx) })
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	figure.Print(name, figure.Ratio(a, b), "", fmt.Sprintf("%s, %s of %s thousand, in pairs; goal %g", what, figure.List(a), figure.List(b), goal))
	return nil
}

// rate sends requests for netSpan and returns the answers, in thousands a second.
func (r requests) rate(ctx context.Context) (float64, error) {
	args := []string{"wrk", "-t1", "-c32", "-d" + netSpan.String()}
	if r.fresh {
		args = append(args, "-H", "Connection: close")
	}
	out, err := inside(ctx, r.pin, append(args, r.url)...)
	if err != nil {
		return 0, err
	}
	// Slow answers are in the rate and are no failure. On fresh connections wrk counts it as a read
	// error that the server closes the connection, as it was asked to.
	broken := `Socket errors: (connect [1-9]|.* (read|write) [1-9])|Non-2xx`
	if r.fresh {
		broken = `Socket errors: (connect [1-9]|.* write [1-9])|Non-2xx`
	}
	if regexp.MustCompile(broken).MatchString(out) {
		return 0, fmt.Errorf("%s: requests failed: %s", r.url, out)
	}
	m := regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`).FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s: no rate in %q", r.url, out)
	}
	rate, err := strconv.ParseFloat(m[1], 64)
	return rate / 1000, err
}

// attach compares how long it takes to attach a container with and without an overlay network. It
// reads the times from the daemon's log, because whole starts differ by more than that from one to
// the next.
func (n *bench) attach(ctx context.Context, rounds int) error {
	w, err := testbed.Watch(ctx, n.Control)
	if err != nil {
		return err
	}
	j, err := testbed.OpenJournal(n.Nodes[0])
	if err != nil {
		return err
	}
	var starts, attached [2]figure.Times // without and with
	for i := range 3 * rounds {
		for turn := range 2 {
			with := (i + turn) % 2
			spec := n.service(fmt.Sprintf("attach-%d-%d", i, with), "manager")
			if with == 0 {
				spec.TaskTemplate.Networks = nil
			}
			took, err := n.startOne(ctx, w, spec)
			if err != nil {
				return err
			}
			entries, err := j.Next("connected a task to its networks")
			if err != nil {
				return err
			}
			if len(entries) != 1 || entries[0].Overlays != with {
				return fmt.Errorf("service %s: the daemon's journal has %+v", spec.Name, entries)
			}
			starts[with], attached[with] = append(starts[with], took), append(attached[with], entries[0].Took)
		}
	}
	var added figure.Times
	for i := range attached[1] {
		added = append(added, attached[1][i]-attached[0][i])
	}
	figure.Print("attach_ms", figure.Millis(added.Median()), "ms", fmt.Sprintf(
		"what an overlay network adds to a container's start: to be connected %.1f ms with, %.1f without; create-to-RUNNING %.0f and %.0f; medians of %d pairs; goal 15",
		figure.Millis(attached[1].Median()), figure.Millis(attached[0].Median()), figure.Millis(starts[1].Median()), figure.Millis(starts[0].Median()), len(added)))
	return nil
}

// startOne makes a service of one replica, returns the time until it runs, and removes it.
func (n *bench) startOne(ctx context.Context, w *testbed.Watcher, spec *swarmv1.ServiceSpec) (time.Duration, error) {
	w.Reset()
	began := time.Now()
	if err := testbed.Create(ctx, n.Control, w, spec, 1); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if _, err := n.Control.RemoveService(ctx, &swarmv1.GetRequest{Id: spec.GetName()}); err != nil {
		return 0, err
	}
	return took, w.Until(testbed.None)
}

func url(addr netip.Addr, port uint16) string {
	return "http://" + netip.AddrPortFrom(addr, port).String() + "/"
}

// inside runs a command in a network namespace and returns what it wrote.
func inside(ctx context.Context, pin string, command ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, netSpan+30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + pin, "--"}, command...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, testbed.Tail(string(out), 300))
	}
	return string(out), nil
}

// stream returns the Gbit/s of one TCP stream from one namespace to another.
func stream(ctx context.Context, from, to string, addr netip.Addr) (float64, error) {
	serving, cancel := context.WithCancel(ctx)
	server := exec.CommandContext(serving, "nsenter", "--net="+to, "--", "iperf3", "-s", "-1", "-B", addr.String())
	if err := server.Start(); err != nil {
		cancel()
		return 0, err
	}
	defer func() { cancel(); _ = server.Wait() }()
	var out string
	err := testbed.Poll(ctx, "iperf3 answers", func() (ok bool) {
		var err error
		out, err = inside(ctx, from, "iperf3", "-J", "-c", addr.String(), "-t", strconv.Itoa(int(netSpan.Seconds())))
		return err == nil && !strings.Contains(out, `"error":`) // iperf3 exits with 0 if the server does not listen yet.
	})
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, testbed.Tail(out, 300))
	}
	var result struct {
		End struct {
			Received struct {
				Bits float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		return 0, err
	}
	if result.End.Received.Bits == 0 {
		return 0, fmt.Errorf("iperf3 to %s: nothing received: %s", addr, out)
	}
	return result.End.Received.Bits / 1e9, nil
}

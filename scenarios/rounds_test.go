package scenarios

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"swarm/dev"
)

// TestRounds creates and removes networks and services repeatedly and in random ways. No host may
// keep anything of them, and no address may stay allocated. ROUNDS is the number of rounds, default
// 20. SEED replays the choices.
func TestRounds(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	for _, tool := range []string{"ip", "nft", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			skip(t, "the inventory of a host needs ip, nft and nsenter")
		}
	}
	t.Parallel()
	seed, rounds := envNumber(t, "SEED", rand.Uint64()), envNumber(t, "ROUNDS", 20)
	t.Logf("SEED=%d", seed)
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 3, Managers: 1, IPv6: true})
	r := &removal{testCluster: c, Rand: rand.New(rand.NewPCG(seed, seed))}
	c.swarm("network", "create", "--ipv6", "base")
	c.prober("stays", "--mode", "global", "--network", "base", "--publish", "published="+meshPort+",target="+echoPort)
	base := c.waitMembers("base", len(c.hosts))
	r.eventually("the inventory of the hosts no longer changes", func() error {
		was := r.before
		r.before, r.use = r.inventory(), r.addressUse()
		for host, lines := range r.before {
			if i := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, " tentative") }); i >= 0 {
				return fmt.Errorf("%s tries an address: %s", host, lines[i])
			}
		}
		if diff := cmp.Diff(was, r.before); diff != "" {
			return fmt.Errorf("changes (+):\n%s", diff)
		}
		return nil
	})
	for i := range rounds {
		r.round(int(i))
		if i%5 == 4 || i == rounds-1 {
			r.nothingLeft()
		}
		if i%25 == 24 {
			t.Logf("%d of %d rounds", i+1, rounds)
		}
	}
	c.eventuallyReach(base.members, allTargets(base))
	t.Logf("%d rounds, SEED=%d: %d lines a host before and after", rounds, seed, len(r.before[c.hosts[0].Name]))
}

// envNumber returns the number in an environment variable, or the fallback if the variable is not
// set.
func envNumber(t *testing.T, name string, fallback uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// removal is the state of TestRounds.
type removal struct {
	*testCluster
	*rand.Rand
	before map[string][]string
	use    string
}

func (r *removal) maybe(args ...string) []string {
	if r.IntN(2) == 0 {
		return nil
	}
	return args
}

// round creates networks and services, may update them, may wait for them, and removes them all.
func (r *removal) round(i int) {
	r.t.Helper()
	var networks, services []string
	for n := range 1 + r.IntN(2) {
		name := fmt.Sprintf("net%d-%d", i, n)
		networks = append(networks, name)
		r.swarm(slices.Concat([]string{"network", "create"}, r.maybe("--ipv6"), r.maybe("--internal"), []string{name})...)
	}
	for n := range 1 + r.IntN(3) {
		name := fmt.Sprintf("svc%d-%d", i, n)
		services = append(services, name)
		args := []string{"--network", networks[r.IntN(len(networks))]}
		args = append(args, r.maybe("--network", "base")...)
		args = append(args, r.maybe("--endpoint-mode", "dnsrr")...)
		if !slices.Contains(args, "dnsrr") {
			args = append(args, r.maybe("--publish", "target="+echoPort)...)
		}
		args = append(args, [][]string{{"--replicas", strconv.Itoa(1 + r.IntN(4))}, {"--mode", "global"}}[r.IntN(2)]...)
		r.prober(name, args...)
	}
	switch r.IntN(4) {
	case 0:
		r.runs(services[0])
	case 1:
		r.swarm("service", "update", "--detach", "--force", services[0])
	case 2:
		r.runs(services[0])
		host := r.hosts[r.IntN(len(r.hosts))]
		if err := r.playground.Kill(r.ctx, host.Name); err != nil {
			r.t.Fatal(err)
		}
		r.start(host)
	}
	r.remove("service", services)
	r.remove("network", networks)
}

// runs waits for one running task of a service.
func (r *removal) runs(service string) {
	r.t.Helper()
	r.eventually(service+" runs", func() error {
		rows, err := r.ps(service)
		if err == nil && !slices.ContainsFunc(rows, func(p psRow) bool { return strings.HasPrefix(p.state, "Running") }) {
			err = fmt.Errorf("tasks: %v", rows)
		}
		return err
	})
}

// remove removes objects. It retries while an object is in use.
func (r *removal) remove(noun string, names []string) {
	r.t.Helper()
	for _, name := range names {
		r.eventually("remove "+name, func() error {
			_, err := r.run(noun, "rm", name)
			if err != nil && strings.Contains(err.Error(), "not found") {
				return nil
			}
			return err
		})
	}
}

// nothingLeft waits until the inventory of every host and the use of every subnet equal those at
// the start.
func (r *removal) nothingLeft() {
	r.t.Helper()
	r.eventually("nothing is left", func() error {
		if diff := cmp.Diff(r.before, r.inventory()); diff != "" {
			return fmt.Errorf("left on hosts (+):\n%s", diff)
		}
		if diff := cmp.Diff(r.use, r.addressUse()); diff != "" {
			return fmt.Errorf("use of addresses: %s", diff)
		}
		return nil
	})
}

func (r *removal) addressUse() string {
	return r.swarm("network", "inspect", "--format", "{{.Name}} {{json .IPAM.Config}}", "base", "ingress") +
		r.swarm("network", "ls", "--format", "{{.Name}}")
}

// mapOfSize matches maps of the routing mesh. The mesh keeps a map, empty, for each number of
// backends that has occurred.
var mapOfSize = regexp.MustCompile(`map @?(any|one|here)[46]-\d+|^(}|type inet_proto .*)$`)

// inventory returns the devices, addresses, routes, rules, nftables with their elements, and
// namespaces of every host.
func (r *removal) inventory() map[string][]string {
	r.t.Helper()
	all := map[string][]string{}
	for _, h := range r.hosts {
		var lines []string
		for _, command := range []string{
			"ip -br link", "ip -o addr", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all",
			"ip neigh show nud permanent", "nft list ruleset",
		} {
			args := append([]string{"--net=" + h.Namespace}, strings.Fields(command)...)
			out, err := exec.CommandContext(r.ctx, "nsenter", args...).Output()
			if err != nil {
				r.t.Fatalf("%s on %s: %v", command, h.Name, err)
			}
			for line := range strings.Lines(string(out)) {
				if words := strings.Fields(line); len(words) > 0 && !mapOfSize.MatchString(strings.TrimSpace(line)) {
					lines = append(lines, strings.Join(words, " "))
				}
			}
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			r.t.Fatal(err)
		}
		for line := range strings.Lines(string(mounts)) {
			if f := strings.Fields(line); strings.HasPrefix(f[4], h.RunDir+"/") {
				lines = append(lines, f[4])
			}
		}
		slices.Sort(lines)
		all[h.Name] = lines
	}
	return all
}

package overlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"swarm/bench/figure"
	"swarm/bench/testbed"
	"swarm/dev"
	"swarm/overlay/netns"
	"swarm/overlay/resolve"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	realHosts      = 5
	simulatedHosts = 20
	// changesSeen is the number of changes from which the percentile is computed.
	changesSeen = 100
	// probeTick is the interval of a prober's queries.
	probeTick = 5 * time.Millisecond
)

// Propagation measures how soon every host of a cluster knows that a task has come or gone. On
// hosts with containers, a prober in a container's namespace asks the name server for the service's
// tasks and connects to the service's virtual address; the host knows when both answers are right.
// Hosts that simulate containers have no tables; such a host knows when its worker was told. A task
// comes when its own host says that it runs. It goes when the service is scaled down, the call
// included.
func Propagation(ctx context.Context, e testbed.Env) error {
	c, err := testbed.Up(ctx, e, dev.Options{
		Nodes: realHosts + simulatedHosts, Managers: 3, Simulated: simulatedHosts, DaemonArgs: testbed.JournalArgs(), StartTimeout: 2 * time.Minute,
	}, e.Archive)
	if err != nil {
		return err
	}
	defer c.Down()
	p, err := newPropagation(ctx, c)
	if err != nil {
		return err
	}
	defer p.close()
	var up, down figure.Times
	for i := range changesSeen/2 + 1 {
		came, err := p.change(ctx, true)
		if err != nil {
			return fmt.Errorf("a task runs: %w", err)
		}
		went, err := p.change(ctx, false)
		if err != nil {
			return fmt.Errorf("a task goes: %w", err)
		}
		if i > 0 { // The first change spreads the image.
			up, down = append(up, came), append(down, went)
		}
	}
	all := slices.Sorted(slices.Values(slices.Concat(up, down)))
	figure.Print("propagation_p99_ms", figure.Millis(all[len(all)*99/100-1]), "ms", fmt.Sprintf(
		"a task runs, or goes, to the last of %d hosts (names and maps) and %d simulated ones (told); %d changes, medians %.0f and %.0f, worst %.0f; load %s; goal 300",
		realHosts, simulatedHosts, len(all), figure.Millis(up.Median()), figure.Millis(down.Median()), figure.Millis(all[len(all)-1]), loadAverage()))
	return nil
}

// loadAverage returns the machine's load average of the last minute.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil || len(text) < 4 {
		return "unknown"
	}
	return string(text[:slices.Index(text, ' ')])
}

type propagationBench struct {
	c        *testbed.Cluster
	probers  []*prober
	journals []*testbed.Journal
	name     string
	virtual  netip.AddrPort
	task     string // the latest task
}

func newPropagation(ctx context.Context, c *testbed.Cluster) (*propagationBench, error) {
	p := &propagationBench{c: c, name: "web"}
	info, err := c.Control.CreateNetwork(ctx, &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: "bench"}})
	if err != nil {
		return nil, err
	}
	networks := []*swarmv1.NetworkAttachmentConfig{{Target: info.GetNetwork().GetId()}}
	w, err := testbed.Watch(ctx, c.Control)
	if err != nil {
		return nil, err
	}
	everywhere := testbed.Service("probe", 0)
	everywhere.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Global{Global: &swarmv1.GlobalService{}}}
	everywhere.TaskTemplate.Networks = networks
	if err := testbed.Create(ctx, c.Control, w, everywhere, realHosts+simulatedHosts); err != nil {
		return nil, err
	}
	// The tasks run on a host whose containers are real. The other hosts only learn of them.
	web := testbed.Service(p.name, 0)
	web.TaskTemplate.Networks = networks
	web.TaskTemplate.Placement = &swarmv1.Placement{Constraints: []string{"node.hostname==node1"}}
	if _, err := c.Control.CreateService(ctx, &swarmv1.CreateServiceRequest{Spec: web}); err != nil {
		return nil, err
	}
	virtual, err := testbed.VirtualIP(ctx, c.Control, p.name)
	if err != nil {
		return nil, err
	}
	p.virtual = netip.AddrPortFrom(virtual, 8080)
	return p, p.openProbers(ctx)
}

func (p *propagationBench) openProbers(ctx context.Context) error {
	tasks, err := p.c.Control.ListTasks(ctx, &swarmv1.ListRequest{})
	if err != nil {
		return err
	}
	for _, h := range p.c.Nodes[realHosts:] {
		j, err := testbed.OpenJournal(h)
		if err != nil {
			return err
		}
		p.journals = append(p.journals, j)
	}
	for _, h := range p.c.Nodes[:realHosts] {
		for _, t := range tasks.GetTasks() {
			ns, err := netns.Open(h.RunDir + "/netns/" + t.GetTask().GetId())
			if err != nil {
				continue // The entry is of another host.
			}
			one := &prober{host: h.Name, ns: ns}
			p.probers = append(p.probers, one)
			if err := one.open(); err != nil {
				return err
			}
		}
	}
	if len(p.probers) != realHosts {
		return fmt.Errorf("containers with a prober: got %d, want %d", len(p.probers), realHosts)
	}
	return nil
}

func (p *propagationBench) close() {
	for _, one := range p.probers {
		one.close()
	}
}

// change scales the service to one task or to none, and returns the time until the last host knew.
func (p *propagationBench) change(ctx context.Context, up bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	w, err := testbed.Watch(ctx, p.c.Control)
	if err != nil {
		return 0, err
	}
	for _, j := range p.journals {
		if _, err := j.Next("backend"); err != nil {
			return 0, err
		}
	}
	known := make([]time.Time, len(p.probers))
	var g errgroup.Group
	for i, one := range p.probers {
		g.Go(func() (err error) {
			known[i], err = one.until(ctx, p.name, p.virtual, up)
			return err
		})
	}
	began, err := p.scale(ctx, up)
	if err == nil && up {
		began, err = p.running(w)
	}
	if err != nil {
		cancel()
		return 0, errors.Join(err, g.Wait())
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	told, err := p.told(ctx, up)
	if err != nil {
		return 0, err
	}
	if !up { // The next change must not begin before this one has ended.
		if err := w.Until(func(states map[string]swarmv1.TaskState) bool { _, left := states[p.task]; return !left }); err != nil {
			return 0, err
		}
	}
	return slices.MaxFunc(append(known, told...), time.Time.Compare).Sub(began), nil
}

func (p *propagationBench) scale(ctx context.Context, up bool) (time.Time, error) {
	now, err := p.c.Control.GetService(ctx, &swarmv1.GetRequest{Id: p.name})
	if err != nil {
		return time.Time{}, err
	}
	spec := now.GetRevision().GetSpec().CloneVT()
	spec.GetMode().GetReplicated().Replicas = 0
	if up {
		spec.GetMode().GetReplicated().Replicas = 1
	}
	began := time.Now()
	_, err = p.c.Control.UpdateService(ctx, &swarmv1.UpdateServiceRequest{Id: p.name, Version: now.GetService().GetMeta().GetVersion(), Spec: spec})
	return began, err
}

// running waits until the service's task runs, and returns the time at which its host reported it.
func (p *propagationBench) running(w *testbed.Watcher) (at time.Time, err error) {
	for {
		event, err := w.Next()
		if err != nil {
			return at, err
		}
		if s := event.GetObject().GetTaskStatus(); s.GetState() == swarmv1.TaskState_RUNNING {
			p.task = s.GetTaskId()
			return s.GetTimestamp().AsTime(), nil
		}
	}
}

// told returns when the workers of the simulated hosts learned of the task's change.
func (p *propagationBench) told(ctx context.Context, ready bool) ([]time.Time, error) {
	var out []time.Time
	for _, j := range p.journals {
		heard := false
		err := testbed.Poll(ctx, "a simulated host to receive it", func() bool {
			entries, _ := j.Next("backend")
			for _, one := range entries {
				if !heard && one.Task == p.task && one.Ready == ready {
					heard = true
					out = append(out, one.Time)
				}
			}
			return heard
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", j.Path, err)
		}
	}
	return out, nil
}

// prober queries the name server and connects from inside a container's namespace.
type prober struct {
	host string
	ns   *netns.Namespace
	conn *dns.Conn
}

func (p *prober) open() error {
	return p.ns.Do(func() (err error) {
		p.conn, err = dns.Dial("udp4", resolve.Address+":53")
		return err
	})
}

func (p *prober) close() {
	if p.conn != nil {
		_ = p.conn.Close()
	}
	_ = p.ns.Close()
}

// until queries until the name and the virtual address both show that the service has a task, or
// has none. It returns the time at which the later of the two correct queries began.
func (p *prober) until(ctx context.Context, name string, virtual netip.AddrPort, has bool) (at time.Time, err error) {
	named := false
	tick := time.NewTicker(probeTick)
	defer tick.Stop()
	for {
		if !named {
			at = time.Now()
			if got, err := p.named(name); err != nil {
				return at, fmt.Errorf("host %s: %w", p.host, err)
			} else {
				named = got == has
			}
		}
		if named {
			asked := time.Now()
			got, err := p.reached(virtual)
			if err != nil {
				return at, fmt.Errorf("host %s: %w", p.host, err)
			}
			if got == has {
				return asked, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return at, fmt.Errorf("host %s, named %t: %w", p.host, named, ctx.Err())
		}
	}
}

func (p *prober) named(name string) (bool, error) {
	_ = p.conn.SetDeadline(time.Now().Add(10 * time.Second))
	question := new(dns.Msg).SetQuestion("tasks."+name+".", dns.TypeA)
	if err := p.conn.WriteMsg(question); err != nil {
		return false, err
	}
	answer, err := p.conn.ReadMsg()
	if err != nil {
		return false, fmt.Errorf("ask for %s: %w", question.Question[0].Name, err)
	}
	return len(answer.Answer) > 0, nil
}

// reached reports whether the virtual address accepts a connection. A refused or reset connection
// is not an error.
func (p *prober) reached(virtual netip.AddrPort) (ok bool, err error) {
	err = p.ns.Do(func() error {
		c, err := net.DialTimeout("tcp4", virtual.String(), 10*time.Second)
		if err == nil {
			return c.Close()
		}
		return err
	})
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) {
		return false, nil
	}
	return err == nil, err
}

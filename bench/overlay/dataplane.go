package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"swarm/bench/figure"
	"swarm/bench/testbed"
	"swarm/dev"
	"swarm/overlay/bridge"
	"swarm/overlay/directory"
	"swarm/overlay/fabric"
	"swarm/overlay/plane"
	"swarm/overlay/resolve"
	"swarm/overlay/vip"
	swarmv1 "swarm/proto/swarm/v1"
)

// scaleContainers is the number of containers of one host on a network with all the services.
const scaleContainers = 50

// hostScale measures a host's whole data plane (bridge, fabric, service addresses, names) with a
// thousand services, which it receives as a worker receives them from a manager.
func hostScale(ctx context.Context, e testbed.Env) error {
	lab, err := dev.NewLab(dev.LabConfig{Dir: filepath.Join(e.Dir, "ns"), Name: "scale", Subnet: netip.MustParsePrefix("10.219.0.0/24")})
	if err != nil {
		return err
	}
	h := &planeHost{lab: lab, dir: e.Dir, programmed: make(chan time.Duration, 1000), rounds: max(netRounds, e.Rounds)}
	defer func() {
		if err := lab.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: remove the host:", err)
		}
	}()
	if err := lab.AddHost("h", netip.MustParseAddr("10.219.0.2")); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var g errgroup.Group
	if err := lab.Do("h", func() error { return h.open() }); err != nil {
		cancel()
		return err
	}
	g.Go(func() error { return h.server.Run(ctx) })
	g.Go(func() error { return h.names.Run(ctx) })
	g.Go(func() error { return lab.Do("h", func() error { return h.plane.Run(ctx) }) })
	err = h.measure(ctx)
	if clear := lab.Do("h", h.close); err == nil {
		err = clear
	}
	cancel()
	return errors.Join(err, g.Wait())
}

// planeHost is a host with the data plane that a worker uses.
type planeHost struct {
	lab        *dev.Lab
	dir        string
	rounds     int
	directory  *directory.Directory
	bridge     *bridge.Bridge
	fabric     *fabric.Fabric
	balancer   *vip.Balancer
	server     *resolve.Server
	names      *resolve.Feed
	plane      *plane.Plane
	programmed chan time.Duration
	network    *swarmv1.Network
	tasks      []string
}

func (h *planeHost) open() (err error) {
	log := slog.New(slog.DiscardHandler)
	if h.bridge, err = bridge.New(bridge.Config{NetnsDir: filepath.Join(h.dir, "tasks")}, bridge.Deps{Log: log}); err != nil {
		return err
	}
	if h.fabric, err = fabric.New(fabric.Config{PinDir: filepath.Join(h.dir, "networks"), Underlay: netip.MustParseAddr("10.219.0.2")}, fabric.Deps{Log: log}); err != nil {
		return err
	}
	socket := filepath.Join(h.dir, "names.sock")
	h.server = resolve.New(resolve.Config{Socket: socket}, resolve.Deps{Log: log})
	h.names = resolve.NewFeed(resolve.FeedConfig{Socket: socket}, resolve.Deps{Log: log})
	h.balancer, h.directory = vip.New(), directory.New("self")
	h.plane = plane.New(plane.Deps{
		Log: slog.New(listener{h.programmed}), Directory: h.directory, Bridge: h.bridge, Fabric: h.fabric, Balancer: h.balancer, Names: h.names,
		Mesh: func(uint32) plane.Mesh { return nil }, // There is no network ingress.
	})
	return h.plane.Restore(context.Background(), nil)
}

func (h *planeHost) close() error {
	var errs []error
	for _, id := range h.tasks {
		errs = append(errs, h.plane.Detach(context.Background(), id))
	}
	return errors.Join(append(errs, h.balancer.Close(), h.fabric.Close())...)
}

// listener is a log handler that reads how long the plane took to program a change.
type listener struct{ programmed chan<- time.Duration }

func (l listener) Enabled(context.Context, slog.Level) bool { return true }
func (l listener) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l listener) WithGroup(string) slog.Handler            { return l }

func (l listener) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		fmt.Fprintln(os.Stderr, "bench: the plane says:", r.Message)
	}
	if r.Message == "programmed changes of the network" {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "took" {
				l.programmed <- a.Value.Duration()
			}
			return true
		})
	}
	return nil
}

func (h *planeHost) measure(ctx context.Context) error {
	h.network = &swarmv1.Network{Id: "net", Vni: 70000, Spec: &swarmv1.NetworkSpec{Name: "net"}}
	peer := &swarmv1.Peering{NodeId: "other", Addr: "10.219.0.3"}
	h.tell(&swarmv1.Assignment{Object: &swarmv1.Assignment_Network{Network: h.network}}, &swarmv1.Assignment{Object: &swarmv1.Assignment_Peering{Peering: peer}})
	if _, err := h.attach(ctx); err != nil { // makes the network
		return err
	}
	few, err := h.attachments(ctx, 2*h.rounds)
	if err != nil {
		return err
	}
	kernel := kernelMemory
	for i := range scaleServices {
		all := []*swarmv1.Assignment{routing(i)}
		for b := range scaleBackends {
			all = append(all, backendOf(i, b, true))
		}
		h.tell(all...)
	}
	many, err := h.attachments(ctx, 2*h.rounds)
	if err != nil {
		return err
	}
	figure.Print("load_1000_ms", figure.Millis(many.Median()-few.Median()), "ms", fmt.Sprintf(
		"%d services of %d backends, for one container: it is connected in %.1f ms, without them in %.1f", scaleServices, scaleBackends, figure.Millis(many.Median()), figure.Millis(few.Median())))
	if err := h.changes(ctx, "with a container on the host", ""); err != nil {
		return err
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	kernelBefore, err := kernel()
	if err != nil {
		return err
	}
	for range scaleContainers {
		if _, err := h.attach(ctx); err != nil {
			return err
		}
	}
	kernelAfter, err := kernel()
	if err != nil {
		return err
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	figure.Print("kernel_mb", (kernelAfter-kernelBefore)/scaleContainers, "MB", fmt.Sprintf(
		"the kernel's memory for a container with all these services: slab and per-CPU memory of the machine, a mean of %d", scaleContainers))
	figure.Print("heap_mb", float64(after.HeapAlloc-before.HeapAlloc)/1e6/scaleContainers, "MB", "the daemon's heap for each of them")
	return h.changes(ctx, fmt.Sprintf("with %d containers more on the host", scaleContainers), "_50")
}

// tell passes assignments to the data plane, as a worker does for a manager.
func (h *planeHost) tell(all ...*swarmv1.Assignment) {
	changes := make([]*swarmv1.AssignmentChange, len(all))
	for i, a := range all {
		changes[i] = &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Put{Put: a}}
	}
	h.directory.Apply(changes)
}

func routing(i int) *swarmv1.Assignment {
	return &swarmv1.Assignment{Object: &swarmv1.Assignment_Routing{Routing: &swarmv1.Routing{
		ServiceId: serviceName(i), Name: serviceName(i),
		Endpoint: &swarmv1.Endpoint{ServiceId: serviceName(i), VirtualIps: []*swarmv1.VirtualIP{{NetworkId: "net", Addr: place(20000 + i)}}},
	}}}
}

func backendOf(i, b int, ready bool) *swarmv1.Assignment {
	return &swarmv1.Assignment{Object: &swarmv1.Assignment_Backend{Backend: &swarmv1.Backend{
		TaskId: taskName(i, b), ServiceId: serviceName(i), NodeId: "other", Ready: ready, Slot: uint64(b + 1),
		Networks: []*swarmv1.NetworkAttachment{{NetworkId: "net", Addresses: []string{place(30000 + i*scaleBackends + b)}}},
	}}}
}

func serviceName(i int) string { return fmt.Sprintf("s%d", i) }
func taskName(i, b int) string { return fmt.Sprintf("s%d-%d", i, b) }
func place(n int) string       { return fmt.Sprintf("10.%d.%d.%d/8", n>>16, n>>8&255, n&255) }

func (h *planeHost) attach(ctx context.Context) (time.Duration, error) {
	id := fmt.Sprintf("task%d", len(h.tasks))
	a := plane.Attachment{TaskID: id, OnBridge: true, Overlays: []plane.Overlay{{
		Network: h.network, Addresses: []netip.Prefix{netip.MustParsePrefix(place(100 + len(h.tasks)))},
	}}}
	h.tasks = append(h.tasks, id)
	var took time.Duration
	err := h.lab.Do("h", func() error {
		began := time.Now()
		_, err := h.plane.Attach(ctx, a)
		took = time.Since(began)
		return err
	})
	return took, err
}

// attachments attaches and detaches n containers, one after the other, and returns the times to
// attach.
func (h *planeHost) attachments(ctx context.Context, n int) (figure.Times, error) {
	var all figure.Times
	for range n {
		took, err := h.attach(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, took)
		last := h.tasks[len(h.tasks)-1]
		if err := h.lab.Do("h", func() error { return h.plane.Detach(ctx, last) }); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// changes makes one task of a service unready and ready again, and ends another task and makes a
// new one, in turns.
func (h *planeHost) changes(ctx context.Context, what, suffix string) error {
	var ready, come figure.Times
	for i := range 4 * h.rounds {
		took, err := h.change(ctx, func() { h.tell(backendOf(500, 3, i%2 == 1)) })
		if err != nil {
			return err
		}
		ready = append(ready, took)
		took, err = h.change(ctx, func() {
			if i%2 == 1 {
				h.tell(backendOf(501, 4, true))
				return
			}
			h.directory.Apply([]*swarmv1.AssignmentChange{{Change: &swarmv1.AssignmentChange_Remove{
				Remove: &swarmv1.AssignmentRef{Kind: swarmv1.AssignmentRef_BACKEND, Id: taskName(501, 4)},
			}}})
		})
		if err != nil {
			return err
		}
		come = append(come, took)
	}
	figure.Print("change_ready"+suffix+"_ms", figure.Millis(ready.Median()), "ms", fmt.Sprintf("one of %d tasks is ready, or no more, until all is programmed, %s; median of %d; goal 5", scaleServices*scaleBackends, what, len(ready)))
	figure.Print("change_task"+suffix+"_ms", figure.Millis(come.Median()), "ms", "one comes, or ends; the same")
	return nil
}

// change returns the time from tell until the plane has programmed the change.
func (h *planeHost) change(ctx context.Context, tell func()) (time.Duration, error) {
	for len(h.programmed) > 0 {
		<-h.programmed
	}
	began := time.Now()
	tell()
	select {
	case <-h.programmed:
		return time.Since(began), nil
	case <-time.After(time.Minute):
		return 0, errors.New("the plane has not programmed a change within a minute")
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// kernelMemory returns the machine's slab, per-CPU and vmalloc memory, in MB.
func kernelMemory() (mb float64, err error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !slices.Contains([]string{"SUnreclaim:", "Percpu:", "VmallocUsed:"}, fields[0]) {
			continue
		}
		kb, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			return 0, err
		}
		mb += kb * 1024 / 1e6
	}
	return mb, nil
}

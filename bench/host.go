package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"swarm/dev"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// cluster is a playground with a connection to its first host, a manager.
type cluster struct {
	*dev.Playground
	name    string
	hosts   []dev.Host
	conn    *grpc.ClientConn
	control swarmv1.ControlClient
}

// bring makes a cluster, and gives it the images in the archives.
func bring(ctx context.Context, e env, o dev.Options, archives ...string) (*cluster, error) {
	o.Name, o.Binary, o.Root = "bench"+fmt.Sprint(os.Getpid()%100000), e.binary, filepath.Join(e.dir, "h")
	p, err := dev.Up(ctx, o)
	if err != nil {
		return nil, err
	}
	c := &cluster{Playground: p, name: o.Name}
	if err := c.open(ctx, archives); err != nil {
		c.down()
		return nil, err
	}
	return c, nil
}

func (c *cluster) open(ctx context.Context, archives []string) (err error) {
	if c.hosts, err = c.Hosts(); err != nil {
		return err
	}
	if c.conn, err = transport.DialUnix(c.hosts[0].Socket); err != nil {
		return err
	}
	c.control = swarmv1.NewControlClient(c.conn)
	for _, archive := range archives {
		if err := load(ctx, c.control, archive); err != nil {
			return err
		}
	}
	return nil
}

// down removes the cluster, whatever happened to ctx.
func (c *cluster) down() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := dev.Down(ctx, c.name); err != nil {
		fmt.Fprintln(os.Stderr, "bench: take the hosts down:", err)
	}
}

// sweep ends what a benchmark has left, whatever happened to its context.
func sweep(s dev.Scope) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Sweep(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench: clean up:", err)
	}
}

// load gives the image to the cluster.
func load(ctx context.Context, control swarmv1.ControlClient, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("%w: run `make bench`, which builds it", err)
	}
	defer f.Close()
	stream, err := control.LoadImage(ctx)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if err := stream.Send(&swarmv1.LoadImageRequest{Data: buf[:n]}); err != nil {
				break // The answer says why.
			}
		}
		if err != nil {
			break
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// service is a spec of n replicas of the test image.
func service(name string, n uint64) *swarmv1.ServiceSpec {
	return &swarmv1.ServiceSpec{
		Name: name,
		Mode: &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Replicated{Replicated: &swarmv1.ReplicatedService{Replicas: n}}},
		TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{
			Image: "swarm/hello:1",
		}},
	}
}

// watcher follows the statuses of tasks.
type watcher struct {
	stream grpc.ServerStreamingClient[swarmv1.Event]
	states map[string]swarmv1.TaskState
}

// watch begins before what it is to see happens.
func watch(ctx context.Context, control swarmv1.ControlClient) (*watcher, error) {
	stream, err := control.Watch(ctx, &swarmv1.WatchRequest{Types: []string{"task", "task_status"}, Objects: true})
	if err != nil {
		return nil, err
	}
	// The header says that the watch is in place.
	if _, err := stream.Header(); err != nil {
		return nil, err
	}
	return &watcher{stream: stream, states: map[string]swarmv1.TaskState{}}, nil
}

// until reads events until done says so of the states of all tasks that exist.
func (w *watcher) until(done func(map[string]swarmv1.TaskState) bool) error {
	for {
		event, err := w.stream.Recv()
		if err != nil {
			return err
		}
		switch object := event.Object.GetObject().(type) {
		case *swarmv1.Object_TaskStatus:
			if event.Action != swarmv1.Event_REMOVE {
				w.states[object.TaskStatus.TaskId] = object.TaskStatus.State
			}
		case *swarmv1.Object_Task:
			if event.Action == swarmv1.Event_REMOVE {
				delete(w.states, object.Task.Id)
			}
		}
		if done(w.states) {
			return nil
		}
	}
}

// on is a placement on nodes of a role.
func on(role string) *swarmv1.Placement {
	return &swarmv1.Placement{Constraints: []string{"node.role==" + role}}
}

// create makes a service and waits until n tasks run.
func create(ctx context.Context, control swarmv1.ControlClient, w *watcher, spec *swarmv1.ServiceSpec, n int) error {
	if _, err := control.CreateService(ctx, &swarmv1.CreateServiceRequest{Spec: spec}); err != nil {
		return err
	}
	if err := w.until(running(n)); err != nil {
		return fmt.Errorf("wait for %d running: %w", n, err)
	}
	return nil
}

// virtualIP is the address of a service on its only network.
func virtualIP(ctx context.Context, control swarmv1.ControlClient, name string) (netip.Addr, error) {
	s, err := control.GetService(ctx, &swarmv1.GetRequest{Id: name})
	if err != nil {
		return netip.Addr{}, err
	}
	vips := s.GetEndpoint().GetVirtualIps()
	if len(vips) != 1 {
		return netip.Addr{}, fmt.Errorf("service %s has %d virtual addresses", name, len(vips))
	}
	prefix, err := netip.ParsePrefix(vips[0].GetAddr())
	return prefix.Addr(), err
}

// running says whether exactly n tasks run.
func running(n int) func(map[string]swarmv1.TaskState) bool {
	return func(states map[string]swarmv1.TaskState) bool {
		count := 0
		for _, s := range states {
			if s == swarmv1.TaskState_RUNNING {
				count++
			}
		}
		return count == n
	}
}

// none says whether no task is left.
func none(states map[string]swarmv1.TaskState) bool { return len(states) == 0 }

// createAndRemove times a service of n replicas from the call to all RUNNING, and from the call to the last task gone and
// what gone says besides (nil: nothing).
func createAndRemove(ctx context.Context, control swarmv1.ControlClient, spec *swarmv1.ServiceSpec, n int, gone func(context.Context) error) (made, removed time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	w, err := watch(ctx, control)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := create(ctx, control, w, spec, n); err != nil {
		return 0, 0, err
	}
	made = time.Since(began)
	began = time.Now()
	if _, err := control.RemoveService(ctx, &swarmv1.GetRequest{Id: spec.Name}); err != nil {
		return 0, 0, err
	}
	if err := w.until(none); err != nil {
		return 0, 0, fmt.Errorf("wait for none left: %w", err)
	}
	if gone != nil {
		if err := gone(ctx); err != nil {
			return 0, 0, err
		}
	}
	return made, time.Since(began), nil
}

package testbed

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"swarm/dev"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// Cluster is a swarm cluster on hosts of a playground. The first host is a manager.
type Cluster struct {
	*dev.Playground
	// Nodes are the hosts, managers first.
	Nodes []dev.Host
	// Control is the API of the first host.
	Control swarmv1.ControlClient

	name string
	conn *grpc.ClientConn
}

// Up makes a cluster and gives it the images in the archives. The caller calls Down.
func Up(ctx context.Context, e Env, o dev.Options, archives ...string) (*Cluster, error) {
	o.Name, o.Binary, o.Root = "bench"+fmt.Sprint(os.Getpid()%100000), e.Binary, filepath.Join(e.Dir, "h")
	p, err := dev.Up(ctx, o)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Playground: p, name: o.Name}
	if err := c.open(ctx, archives); err != nil {
		c.Down()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) open(ctx context.Context, archives []string) (err error) {
	if c.Nodes, err = c.Hosts(); err != nil {
		return err
	}
	if c.conn, err = transport.DialUnix(c.Nodes[0].Socket); err != nil {
		return err
	}
	c.Control = swarmv1.NewControlClient(c.conn)
	for _, archive := range archives {
		if err := c.LoadImage(ctx, archive); err != nil {
			return err
		}
	}
	return nil
}

// Down removes the cluster. It has no context, because it also runs after an interrupt.
func (c *Cluster) Down() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := dev.Down(ctx, c.name); err != nil {
		fmt.Fprintln(os.Stderr, "bench: take the hosts down:", err)
	}
}

// Service returns a spec of n replicas of the test image.
func Service(name string, n uint64) *swarmv1.ServiceSpec {
	return &swarmv1.ServiceSpec{
		Name: name,
		Mode: &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Replicated{Replicated: &swarmv1.ReplicatedService{Replicas: n}}},
		TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{
			Image: "swarm/hello:1",
		}},
	}
}

// OnRole returns a placement on the nodes of a role, manager or worker.
func OnRole(role string) *swarmv1.Placement {
	return &swarmv1.Placement{Constraints: []string{"node.role==" + role}}
}

// Create makes a service and waits until exactly n tasks run, of all that the watcher has seen.
func Create(ctx context.Context, control swarmv1.ControlClient, w *Watcher, spec *swarmv1.ServiceSpec, n int) error {
	if _, err := control.CreateService(ctx, &swarmv1.CreateServiceRequest{Spec: spec}); err != nil {
		return err
	}
	if err := w.Until(Running(n)); err != nil {
		return fmt.Errorf("wait for %d running: %w", n, err)
	}
	return nil
}

// VirtualIP returns the address of a service on its only network.
func VirtualIP(ctx context.Context, control swarmv1.ControlClient, name string) (netip.Addr, error) {
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

// CreateAndRemove makes and removes a service of n replicas. It returns the time from the first
// call until all tasks run, and from the second call until no task is left and gone has returned.
// gone may be nil.
func CreateAndRemove(ctx context.Context, control swarmv1.ControlClient, spec *swarmv1.ServiceSpec, n int, gone func(context.Context) error) (made, removed time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	w, err := Watch(ctx, control)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := Create(ctx, control, w, spec, n); err != nil {
		return 0, 0, err
	}
	made = time.Since(began)
	began = time.Now()
	if _, err := control.RemoveService(ctx, &swarmv1.GetRequest{Id: spec.Name}); err != nil {
		return 0, 0, err
	}
	if err := w.Until(None); err != nil {
		return 0, 0, fmt.Errorf("wait until no task is left: %w", err)
	}
	if gone != nil {
		if err := gone(ctx); err != nil {
			return 0, 0, err
		}
	}
	return made, time.Since(began), nil
}

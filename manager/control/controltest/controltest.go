// Package controltest runs the users' API in a test: a Server over an in-memory store with one
// member, without planner and dispatcher. It works in testing/synctest. Tests that need tasks, or
// the end of a removal, write the rows that the planner would write.
//
// It starts one goroutine for the gRPC server, and one for each duty that Lead runs. They end with
// the test.
package controltest

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"swarm/internal/ident"
	"swarm/internal/pki"
	"swarm/internal/transport"
	"swarm/manager/ca"
	"swarm/manager/control"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// Self is the id of the manager's node.
const Self = "m1"

// Rig is the users' API of a cluster with one manager.
type Rig struct {
	T      *testing.T
	Store  *raftstore.Store
	Server *control.Server
	// Control calls the API as the local user.
	Control swarmv1.ControlClient
}

// New makes a Rig. By default every registry has every image, under Digest, and no node can be
// reached.
func New(t *testing.T, edit ...func(*control.Deps)) *Rig {
	t.Helper()
	r := &Rig{T: t, Store: raftstoretest.New(t)}
	r.bootstrap()
	deps := control.Deps{
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Store: r.Store, Resolver: Registry{},
		Conn: func(string) (grpc.ClientConnInterface, error) { return nil, errors.New("no route to the node") },
	}
	for _, e := range edit {
		e(&deps)
	}
	r.Server = control.New(control.Config{NodeID: Self}, deps)
	r.Control = swarmv1.NewControlClient(r.Dial(transport.AuthInfo{Local: &transport.LocalUser{}}))
	return r
}

func (r *Rig) bootstrap() {
	r.T.Helper()
	key, err := pki.NewKey()
	if err != nil {
		r.T.Fatal(err)
	}
	csr, err := pki.CreateCSR(key)
	if err != nil {
		r.T.Fatal(err)
	}
	c, err := ca.NewCluster(ca.BootstrapConfig{CSR: csr, Addr: "10.0.0.1", Port: 2377}, time.Now())
	if err != nil {
		r.T.Fatal(err)
	}
	c.Node.Id, c.Node.MachineId, c.Node.Hostname = Self, Self, Self
	c.Node.Spec.Availability = swarmv1.NodeSpec_DRAIN
	r.Commit(table.Create(c.Cluster), table.Create(c.Node),
		table.Create(&swarmv1.NodeState{NodeId: Self, State: swarmv1.NodeState_READY}))
}

// Dial connects to the API as a caller.
func (r *Rig) Dial(who transport.AuthInfo) *grpc.ClientConn {
	auth := control.NewAuthoriser(control.MembersOf(r.Store), control.CredentialsOf(r.Store))
	return Serve(r.T, who, func(s grpc.ServiceRegistrar) { r.Server.Register(s) }, auth.Authorise)
}

// Lead runs the duties that the leader has in the users' API, until stop is called or the test
// ends.
func (r *Rig) Lead() (stop func()) {
	var stops []func()
	for _, duty := range []func(context.Context) error{r.Server.MakeIngress, r.Server.AlignEndpoints, r.Server.RollOut, r.Server.RunJobs, r.Server.MoveVolumes} {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- duty(ctx) }()
		stops = append(stops, sync.OnceFunc(func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				r.T.Errorf("a duty of the leader ended: %v", err)
			}
		}))
	}
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	r.T.Cleanup(stop)
	synctest.Wait()
	return stop
}

// Commit writes rows, and waits until the replica has them.
func (r *Rig) Commit(changes ...*swarmv1.Change) {
	r.T.Helper()
	index, err := r.Store.Commit(r.T.Context(), "test", changes...)
	if err != nil {
		r.T.Fatal(err)
	}
	if _, err := r.Store.WaitIndex(r.T.Context(), index); err != nil {
		r.T.Fatal(err)
	}
}

// AddNode writes the rows of a worker that is ready, and returns its id.
func (r *Rig) AddNode(hostname string) string {
	r.T.Helper()
	id := ident.NewID()
	r.Commit(
		table.Create(&swarmv1.Node{Id: id, MachineId: hostname, Hostname: hostname, Addr: hostname, Port: 2377, Spec: &swarmv1.NodeSpec{}, PublicKey: []byte(id)}),
		table.Create(&swarmv1.NodeState{NodeId: id, State: swarmv1.NodeState_READY, Description: &swarmv1.NodeDescription{Hostname: hostname}}),
	)
	return id
}

// AddTask writes the rows of a running task of a service on a node, and returns its id.
func (r *Rig) AddTask(service, node string, slot uint64) string {
	r.T.Helper()
	id := ident.NewID()
	svc, ok := r.Store.View().Services.Get(service)
	if !ok {
		r.T.Fatalf("service %s does not exist", service)
	}
	r.Commit(
		table.Create(&swarmv1.Task{
			Id: id, ServiceId: service, Slot: slot, NodeId: node, Revision: svc.GetRevision(), DesiredState: swarmv1.TaskState_RUNNING,
		}),
		table.Create(&swarmv1.TaskStatus{TaskId: id, State: swarmv1.TaskState_RUNNING, Ready: true, AppliedRevision: svc.GetRevision()}),
	)
	return id
}

// FinishRemoval deletes the rows and claims of a service that is marked for removal, as the planner
// does when its tasks have stopped.
func (r *Rig) FinishRemoval(service string) {
	r.T.Helper()
	v := r.Store.View()
	svc, ok := v.Services.Get(service)
	if !ok || !svc.GetPendingDelete() {
		r.T.Errorf("service %s is not being removed", service)
		return
	}
	changes := []*swarmv1.Change{table.Delete(svc), table.DeleteKey(table.Endpoint, service)}
	for rev := range v.RevisionsOf(service) {
		changes = append(changes, table.Delete(rev))
	}
	for t := range v.TasksOfService(service) {
		changes = append(changes, table.Delete(t), table.DeleteKey(table.TaskStatus, t.GetId()))
	}
	for c := range v.Claims.All() {
		if strings.TrimPrefix(c.GetOwner(), "service/") == service {
			changes = append(changes, table.Delete(c))
		}
	}
	r.Commit(changes...)
}

// Claims returns the keys of all claims but cursors.
func (r *Rig) Claims() (keys []string) {
	for c := range r.Store.View().Claims.All() {
		if !strings.HasPrefix(c.GetKey(), "next/") {
			keys = append(keys, c.GetKey())
		}
	}
	return keys
}

// CreateService creates a service, and returns its id.
func (r *Rig) CreateService(s *swarmv1.ServiceSpec) string {
	r.T.Helper()
	resp, err := r.Control.CreateService(r.T.Context(), &swarmv1.CreateServiceRequest{Spec: s})
	if err != nil {
		r.T.Fatal(err)
	}
	synctest.Wait()
	return resp.GetId()
}

// UpdateService updates the service with the name in the spec.
func (r *Rig) UpdateService(s *swarmv1.ServiceSpec) {
	r.T.Helper()
	if _, err := r.Control.UpdateService(r.T.Context(), &swarmv1.UpdateServiceRequest{Id: s.GetName(), Spec: s}); err != nil {
		r.T.Fatal(err)
	}
	synctest.Wait()
}

// RemoveService marks a service for removal.
func (r *Rig) RemoveService(ref string) {
	r.T.Helper()
	if _, err := r.Control.RemoveService(r.T.Context(), &swarmv1.GetRequest{Id: ref}); err != nil {
		r.T.Fatal(err)
	}
}

// Service looks a service up.
func (r *Rig) Service(ref string) *swarmv1.ServiceInfo {
	r.T.Helper()
	info, err := r.Control.GetService(r.T.Context(), &swarmv1.GetRequest{Id: ref})
	if err != nil {
		r.T.Fatal(err)
	}
	return info
}

// CreateNetwork creates a network.
func (r *Rig) CreateNetwork(name string, edit ...func(*swarmv1.NetworkSpec)) *swarmv1.Network {
	r.T.Helper()
	s := &swarmv1.NetworkSpec{Name: name}
	for _, e := range edit {
		e(s)
	}
	info, err := r.Control.CreateNetwork(r.T.Context(), &swarmv1.CreateNetworkRequest{Spec: s})
	if err != nil {
		r.T.Fatal(err)
	}
	synctest.Wait()
	return info.GetNetwork()
}

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/dev"
	"swarm/internal/pki"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// TestAttackReports takes the place of a worker with the certificate from its state folder, and
// sends messages to the managers that no real worker sends. After each attack the cluster must be
// unchanged and usable.
func TestAttackReports(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	t.Parallel()
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 4, Managers: 3})
	a := newImpostor(c, c.hosts[3])
	leader := c.leader()
	for _, attack := range []struct {
		name string
		run  func(*testing.T, *impostor)
	}{
		{"Description", attackDescription},
		{"Digests", attackDigests},
		{"Routes", attackRoutes},
		{"Hostname", attackHostname},
		{"States", attackStates},
		{"Protocol", attackProtocol},
		{"Release", attackRelease},
		{"Deaf", attackDeaf},
		{"Repoint", attackRepoint},
	} {
		t.Run(attack.name, func(t *testing.T) {
			attack.run(t, a.in(t))
			if now := c.leader(); now != leader {
				t.Errorf("leader after the attack: got %s, want %s", now, leader)
			}
			a.in(t).sane()
		})
	}
	a.end()
	c.start(c.host(a.host.Name))
	c.eventually(a.host.Name+" works again", func() error { return c.statusIs(a.host.Name, "Ready") })
}

// impostor acts as the daemon of a host whose real daemon was killed.
type impostor struct {
	*testCluster
	host  dev.Host
	node  *swarmv1.Node
	conn  *grpc.ClientConn // to the leader, with the host's certificate
	admin *grpc.ClientConn // to the leader, with the operator's certificate
	task  string           // the id of a task on the host
	done  func()
	rss   int64 // the result of memory() before the first attack
}

func newImpostor(c *testCluster, h dev.Host) *impostor {
	c.t.Helper()
	a := &impostor{testCluster: c, host: h}
	c.swarm("service", "create", "--name", "bound", "--constraint", "node.hostname=="+h.Name, "swarm/hello:1")
	a.task = c.running("bound").id
	admin, err := transport.DialUnix(c.hosts[0].Socket)
	if err != nil {
		c.t.Fatal(err)
	}
	a.admin = admin
	c.t.Cleanup(func() { _ = admin.Close() })
	if a.node, err = a.row(); err != nil {
		c.t.Fatal(err)
	}
	if err := c.playground.Kill(c.ctx, h.Name); err != nil {
		c.t.Fatal(err)
	}
	id, err := a.identity()
	if err != nil {
		c.t.Fatal(err)
	}
	a.conn = c.attacker(h).grpc(c.hosts[0])
	a.done = a.serve(id)
	c.t.Cleanup(a.end)
	a.rss = a.memory()
	return a
}

// identity returns the identity in the host's state folder.
func (a *impostor) identity() (*transport.Identity, error) {
	cred, roots, err := pki.Disk{Dir: filepath.Join(a.host.StateDir, "certificates")}.Load()
	if err != nil {
		return nil, err
	}
	return transport.NewIdentity(cred, roots, time.Now)
}

// in returns the impostor with the testing.T of a subtest.
func (a *impostor) in(t *testing.T) *impostor {
	out := *a
	out.testCluster = a.testCluster.in(t)
	return &out
}

func (a *impostor) row() (*swarmv1.Node, error) {
	info, err := a.info()
	return info.GetNode(), err
}

// info returns the host's node as the managers report it.
func (a *impostor) info() (*swarmv1.NodeInfo, error) {
	ctx, cancel := context.WithTimeout(a.ctx, 20*time.Second)
	defer cancel()
	return swarmv1.NewControlClient(a.admin).GetNode(ctx, &swarmv1.GetRequest{Id: a.host.Name})
}

// end stops the impostor and frees the host's port.
func (a *impostor) end() {
	if a.done != nil {
		a.done()
		a.done = nil
	}
}

// session opens a session with a description.
func (a *impostor) session(d *swarmv1.NodeDescription) (swarmv1.Dispatcher_SessionClient, *swarmv1.Welcome, error) {
	stream, err := swarmv1.NewDispatcherClient(a.conn).Session(a.t.Context())
	if err != nil {
		return nil, nil, err
	}
	hello := &swarmv1.Hello{Description: d, MachineId: a.node.GetMachineId(), Addr: a.node.GetAddr(), Port: a.node.GetPort()}
	if err := stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Hello{Hello: hello}}); err != nil {
		return nil, nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, nil, err
	}
	if first.GetWelcome() == nil {
		return nil, nil, fmt.Errorf("the session began with %T", first.GetMessage())
	}
	return stream, first.GetWelcome(), nil
}

// open opens a session as a real worker would, and fails the test if that is refused.
func (a *impostor) open() (swarmv1.Dispatcher_SessionClient, *swarmv1.Welcome) {
	a.t.Helper()
	var stream swarmv1.Dispatcher_SessionClient
	var welcome *swarmv1.Welcome
	a.eventually("a session opens", func() (err error) {
		stream, welcome, err = a.session(a.description())
		return err
	})
	return stream, welcome
}

func (a *impostor) description() *swarmv1.NodeDescription {
	return &swarmv1.NodeDescription{
		Hostname: a.host.Name, Platform: &swarmv1.Platform{Os: "linux", Architecture: "x86_64"},
		Resources: &swarmv1.Resources{NanoCpus: 2e9, MemoryBytes: 4 << 30},
	}
}

// send sends messages, waits until the managers have committed their reports, and returns the error
// that closed the session, if any.
func (a *impostor) send(messages ...*swarmv1.FromWorker) error {
	a.t.Helper()
	stream, _ := a.open()
	defer func() { _ = stream.CloseSend() }()
	var last uint64
	for _, m := range messages {
		last = max(last, m.GetStatus().GetSequence())
		if stream.Send(m) != nil {
			break // Recv returns the reason.
		}
	}
	if last == 0 { // The acknowledgement of this message means that the messages before it are committed too.
		last = 1
		_ = stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Status{Status: &swarmv1.StatusReport{Sequence: last}}})
	}
	late := time.AfterFunc(30*time.Second, func() { _ = stream.CloseSend() })
	defer late.Stop()
	for {
		m, err := stream.Recv()
		if err != nil || m.GetStatusAck().GetSequence() == last {
			return err
		}
	}
}

func (c *testCluster) leader() string {
	c.t.Helper()
	var name string
	c.eventually("there is a leader", func() error {
		out, err := c.run("node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}")
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			if host, status, _ := strings.Cut(strings.TrimSpace(line), " "); status == "Leader" {
				name = host
				return nil
			}
		}
		return fmt.Errorf("no leader in %q", out)
	})
	return name
}

// memory returns the memory of the manager's daemon that uses the most, in bytes.
func (a *impostor) memory() (most int64) {
	for _, h := range a.hosts[:3] {
		most = max(most, a.resident(h))
	}
	return most
}

// sane checks that the cluster still works: its nodes are listed, a network can be created, and
// memory is bounded.
func (a *impostor) sane() {
	a.t.Helper()
	began := time.Now()
	out, err := a.run("node", "ls", "--format", "{{.Hostname}}")
	if err != nil {
		a.t.Errorf("node ls: %v", err)
	}
	if got := strings.Fields(out); err == nil && strings.Join(got, " ") != "node1 node2 node3 node4" {
		a.t.Errorf("nodes in node ls: got %q, want node1 to node4", got)
	}
	listed := time.Since(began)
	if _, err := a.run("network", "create", "after"); err != nil {
		a.t.Errorf("network create: %v", err)
	} else if _, err := a.run("network", "rm", "after"); err != nil {
		a.t.Errorf("network rm: %v", err)
	}
	grown := (a.memory() - a.rss) >> 20
	a.t.Logf("node ls took %v, network create and rm %v; the managers' memory has grown by %d MB", listed.Round(time.Millisecond), (time.Since(began) - listed).Round(time.Millisecond), grown)
	if grown > 200 {
		a.t.Errorf("the managers' memory has grown by %d MB", grown)
	}
}

func described(d *swarmv1.NodeDescription) *swarmv1.FromWorker {
	return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Description{Description: d}}
}

// attackDescription sends a description that would make the node's row too large for any list.
func attackDescription(t *testing.T, a *impostor) {
	d := a.description()
	d.Unavailable = strings.Repeat("x", 15<<20)
	t.Log("the session ended: ", a.send(described(d)))
	info, err := a.info()
	if err != nil {
		t.Errorf("node inspect: %v", err)
	}
	if size := info.GetState().GetDescription().SizeVT(); size > 1<<20 {
		t.Errorf("stored description: got %d bytes, want at most 1 MiB", size)
	}
}

// attackDigests reports more images than can exist.
func attackDigests(t *testing.T, a *impostor) {
	var messages []*swarmv1.FromWorker
	for i := range 2 {
		report := &swarmv1.ImageReport{}
		for j := range 150_000 {
			report.Held = append(report.Held, fmt.Sprintf("sha256:%064x", i*1_000_000+j))
		}
		messages = append(messages, &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Images{Images: report}})
	}
	t.Log("the session ended: ", a.send(messages...))
}

// attackRoutes claims every address.
func attackRoutes(t *testing.T, a *impostor) {
	d := a.description()
	d.Routed = []string{"0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "::/0"}
	for i := range 256 {
		d.Routed = append(d.Routed, fmt.Sprintf("10.%d.0.0/16", i))
	}
	t.Log("the session ended: ", a.send(described(d)))
	out, err := a.run("network", "create", "made")
	if err != nil {
		t.Errorf("network create: %v", err)
		return
	}
	t.Log("network create says: ", strings.TrimSpace(out))
	a.swarm("network", "rm", "made")
}

// attackHostname takes another hostname: the first name forges a table row, the second attracts a
// service and its secret.
func attackHostname(t *testing.T, a *impostor) {
	d := a.description()
	d.Hostname = "vault\nforged  node1  Ready"
	t.Log("the session ended: ", a.send(described(d)))
	d.Hostname = "vault"
	t.Log("the session ended: ", a.send(described(d)))
	a.swarm("service", "create", "-d", "--name", "drawn", "--constraint", "node.hostname==vault", "swarm/hello:1")
	defer a.swarm("service", "rm", "drawn")
	a.eventually("the task for node vault has a reason why it is pending", func() error {
		rows, err := a.ps("drawn")
		switch {
		case err != nil || len(rows) == 0:
			return fmt.Errorf("%v, %v", rows, err)
		case rows[0].node != "":
			t.Errorf("a task for node vault was assigned to %s, want it pending", rows[0].node)
		case rows[0].err == "":
			return errors.New("no reason is given why the task is pending")
		}
		return nil
	})
}

// attackStates reports states that a task cannot have, and addresses, ports and times that are
// invalid.
func attackStates(t *testing.T, a *impostor) {
	st := &swarmv1.TaskStatus{TaskId: a.task, State: 999, Message: "\x1b[2J" + strings.Repeat("m", 1<<20), Timestamp: timestamppb.Now()}
	for i := range 100_000 {
		st.Addresses = append(st.Addresses, strconv.Itoa(i))
	}
	t.Log("the session ended: ", a.send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Status{Status: &swarmv1.StatusReport{
		Sequence: 1, Updates: []*swarmv1.TaskStatus{st},
	}}}))
	info, err := swarmv1.NewControlClient(a.admin).GetTask(a.ctx, &swarmv1.GetRequest{Id: a.task})
	if err != nil {
		t.Fatal(err)
	}
	got := info.GetStatus()
	if swarmv1.TaskState_name[int32(got.GetState())] == "" {
		t.Errorf("stored task state: got %d, which does not exist", got.GetState())
	}
	if size := got.SizeVT(); size > 64<<10 || strings.Contains(got.GetMessage(), "\x1b") {
		t.Errorf("stored status: got %d bytes with the message %.20q, want at most 64 KiB without control characters", size, got.GetMessage())
	}
}

// attackProtocol sends reports faster than they are acknowledged, and sends two greetings.
func attackProtocol(t *testing.T, a *impostor) {
	var flood []*swarmv1.FromWorker
	for i := range 2000 {
		flood = append(flood, &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Status{Status: &swarmv1.StatusReport{
			Sequence: uint64(i + 1), Updates: []*swarmv1.TaskStatus{{TaskId: a.task, State: swarmv1.TaskState_RUNNING, Message: strings.Repeat("m", 4000)}},
		}}})
	}
	if err := a.send(flood...); err == nil {
		t.Error("a session that reports without waiting for acknowledgements is still open")
	} else {
		t.Log("the session ended: ", err)
	}
	if err := a.send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Hello{Hello: &swarmv1.Hello{}}}); err == nil {
		t.Error("a session with two greetings is still open")
	} else {
		t.Log("the session ended: ", err)
	}
}

// attackRelease requests the removal of images that do not exist. The managers store a row for each
// request.
func attackRelease(t *testing.T, a *impostor) {
	req := &swarmv1.ReleaseRequest{}
	for i := range 50 {
		req.Digests = append(req.Digests, fmt.Sprintf("sha256:%064x", 9_000_000+i), "no digest "+strconv.Itoa(i))
	}
	ctx, cancel := context.WithTimeout(a.ctx, 20*time.Second)
	defer cancel()
	before := a.swarm("system", "df") // The command fails if a row is invalid.
	_, err := swarmv1.NewDisksClient(a.conn).Release(ctx, req)
	t.Logf("release: %v; df: %d bytes", err, len(before))
}

// attackRepoint answers a pull with the digest of another image.
func attackRepoint(t *testing.T, a *impostor) {
	stream, _ := a.open() // The open session makes the node ready, so that the managers send it the pull.
	defer func() { _ = stream.CloseSend() }()
	a.eventually("the host is ready", func() error { return a.statusIs(a.host.Name, "Ready") })
	digest := func() string {
		return strings.TrimSpace(a.swarm("image", "ls", "--no-trunc", "--format", "{{.Digest}}", "swarm/hello:1"))
	}
	before := digest()
	out, err := a.run("image", "pull", "--node", a.host.Name, "swarm/hello:1")
	t.Logf("pull of a loaded image: %v: %s", err, strings.TrimSpace(out))
	if now := digest(); now != before {
		t.Errorf("digest of swarm/hello:1 changed from %s to %s", before, now)
	}
	out, err = a.run("image", "pull", "--node", a.host.Name, "127.0.0.1:1/app:1")
	t.Logf("pull from a registry that is not there: %v: %s", err, strings.TrimSpace(out))
	if out := a.swarm("image", "ls"); strings.Contains(out, "127.0.0.1:1/app") || strings.Contains(out, "other/name") {
		t.Errorf("the digest that a hostile node returned is in the image list: %s", out)
	}
}

// evil is the digest with which the impostor answers every pull.
var evil = "sha256:" + strings.Repeat("e", 64)

// fakeNode answers requests of managers.
type fakeNode struct {
	swarmv1.UnimplementedWorkerServer
}

func (fakeNode) PullImage(req *swarmv1.PullImageRequest, stream grpc.ServerStreamingServer[swarmv1.ImageProgress]) error {
	name, _, _ := strings.Cut(req.GetReference(), "@")
	return errors.Join(
		stream.Send(&swarmv1.ImageProgress{Step: "done", Image: &swarmv1.Image{Name: "docker.io/other/name:1", Digest: evil}}),
		stream.Send(&swarmv1.ImageProgress{Step: "done", Image: &swarmv1.Image{Name: name, Digest: evil, Size: 1 << 60}}),
	)
}

// serve answers requests at the host's port with the host's certificate.
func (a *impostor) serve(id *transport.Identity) func() {
	a.t.Helper()
	var ln net.Listener
	a.eventually("the port of "+a.host.Name+" is free", func() error {
		return a.playground.Do(a.host.Name, func() (err error) {
			ln, err = net.Listen("tcp", net.JoinHostPort(a.host.Address.String(), strconv.Itoa(int(a.node.GetPort()))))
			return err
		})
	})
	listener := transport.NewListener(transport.ListenerConfig{}, transport.ListenerDeps{Identity: id, Log: slog.New(slog.DiscardHandler)}, ln.Addr())
	server := grpc.NewServer(transport.ServerOptions()...)
	swarmv1.RegisterWorkerServer(server, fakeNode{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	go func() { _ = listener.Run(ctx, ln); ended <- struct{}{} }()
	go func() { _ = server.Serve(listener.GRPC()); ended <- struct{}{} }()
	return func() {
		server.Stop()
		cancel()
		<-ended
		<-ended
	}
}

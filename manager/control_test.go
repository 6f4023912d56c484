package manager_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/transport"
	"swarm/manager"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// refused checks that an error is of a class and has a text, in one line.
func refused(t *testing.T, what string, err error, class func(error) bool, says string) {
	t.Helper()
	err = transport.FromStatus(err)
	if err == nil || !class(err) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: got %v, want one line that says %q", what, err, says)
	}
}

func TestControl_RefusesServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(d *manager.Deps) {
			d.Resolver = resolver{
				"docker.io/library/nosuch:1":  errdefs.ErrNotFound,
				"docker.io/library/private:1": errdefs.ErrUnauthenticated,
				"docker.io/library/faraway:1": errors.New("no route to host"),
			}
		})
		create := func(edit func(*swarmv1.ServiceSpec)) (*swarmv1.CreateServiceResponse, error) {
			s := serviceSpec("other", 1)
			edit(s)
			return r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: s})
		}
		web := serviceSpec("web", 0)
		web.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: 8080}, {TargetPort: 81}}}
		id := r.create(web)
		if ports := r.service("web").GetEndpoint().GetPorts(); len(ports) != 2 || ports[1].GetPublishedPort() != 30000 {
			t.Errorf("ports of the endpoint: %v, want the second chosen as 30000", ports)
		}
		image := func(s string) func(*swarmv1.ServiceSpec) {
			return func(sp *swarmv1.ServiceSpec) { sp.TaskTemplate.ContainerSpec.Image = s }
		}
		_, err := create(func(s *swarmv1.ServiceSpec) { s.Name = "web" })
		refused(t, "a name in use", err, errdefs.IsAlreadyExists, "already taken by service "+id)
		_, err = create(func(s *swarmv1.ServiceSpec) { s.Name = "a b" })
		refused(t, "an invalid name", err, errdefs.IsInvalidArgument, "not valid")
		_, err = create(func(s *swarmv1.ServiceSpec) { s.EndpointSpec = web.EndpointSpec })
		refused(t, "a port in use", err, errdefs.IsAlreadyExists, "port 8080/tcp is already published by service web")
		_, err = create(func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.Networks = []*swarmv1.NetworkAttachmentConfig{{Target: "lan"}}
		})
		refused(t, "an unknown network", err, errdefs.IsNotFound, "network lan not found")
		_, err = create(image("nosuch:1"))
		refused(t, "an unknown image", err, errdefs.IsNotFound, "unknown image nosuch:1")
		_, err = create(image("private:1"))
		refused(t, "an image behind a login", err, errdefs.IsPermissionDenied, "swarm login docker.io")
		if n := r.store.View().Services.Len(); n != 1 {
			t.Fatalf("%d services after refusals, want 1", n)
		}
		resp, err := create(image("faraway:1"))
		if err != nil || len(resp.GetWarnings()) != 1 || !strings.Contains(resp.GetWarnings()[0], "swarm image load") {
			t.Errorf("a registry out of reach: %v, %v; want a warning", resp, err)
		}
	})
}

func TestControl_UpdateAndRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.create(serviceSpec("web", 1))
		old := r.service("web").GetService().GetMeta().GetVersion()
		update := func(edit func(*swarmv1.ServiceSpec), version uint64) (*swarmv1.UpdateServiceResponse, error) {
			s := serviceSpec("web", 1)
			edit(s)
			return r.admin.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Version: version, Spec: s})
		}
		env := func(v string) func(*swarmv1.ServiceSpec) {
			return func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ContainerSpec.Env = []string{v} }
		}
		same, err := update(func(*swarmv1.ServiceSpec) {}, 0)
		if err != nil || same.GetRevision() != 1 {
			t.Errorf("an update that changes nothing: %v, %v; want revision 1", same, err)
		}
		second, err := update(env("A=1"), old)
		if err != nil || second.GetRevision() != 2 {
			t.Fatalf("update: %v, %v", second, err)
		}
		_, err = update(env("A=2"), old)
		refused(t, "an update of an older version", err, errdefs.IsAborted, "changed meanwhile")
		_, err = update(func(s *swarmv1.ServiceSpec) { s.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Global{}} }, 0)
		refused(t, "another mode", err, errdefs.IsInvalidArgument, "cannot become global")
		third, err := update(func(*swarmv1.ServiceSpec) {}, 0)
		if err != nil || third.GetRevision() != 3 {
			t.Fatalf("update back: %v, %v", third, err)
		}
		revs, err := r.admin.ListRevisions(t.Context(), &swarmv1.GetRequest{Id: "web"})
		if err != nil {
			t.Fatal(err)
		}
		var templates []uint64
		for _, rev := range revs.GetRevisions() {
			templates = append(templates, rev.GetTemplate())
		}
		if len(templates) != 3 || templates[0] != 1 || templates[1] != 2 || templates[2] != 1 {
			t.Errorf("templates %v, want 1 2 1", templates)
		}
		back, err := r.admin.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Rollback: true})
		if err != nil || back.GetRevision() != 2 {
			t.Errorf("rollback: %v, %v; want revision 2", back, err)
		}
	})
}

// No answer shows credentials, so that an update that was made from an answer has none.
func TestControl_UpdateKeepsTheCredentialsToPullWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		s := serviceSpec("web", 1)
		s.TaskTemplate.ContainerSpec.PullOptions = &swarmv1.PullOptions{RegistryAuth: "first"}
		r.create(s)
		stored := func() string {
			svc := r.service("web").GetService()
			rev, _ := r.store.View().Revision(svc.GetId(), svc.GetRevision())
			return rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetPullOptions().GetRegistryAuth()
		}
		shown := r.service("web").GetRevision().GetSpec()
		if shown.GetTaskTemplate().GetContainerSpec().GetPullOptions() != nil {
			t.Fatalf("credentials are shown: %v", shown)
		}
		for _, c := range []struct{ given, want string }{{"", "first"}, {"second", "second"}} {
			next := serviceSpec("web", 1)
			next.TaskTemplate.ContainerSpec.Env = []string{"FOR=" + c.want}
			if c.given != "" {
				next.TaskTemplate.ContainerSpec.PullOptions = &swarmv1.PullOptions{RegistryAuth: c.given}
			}
			if _, err := r.admin.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Spec: next}); err != nil {
				t.Fatal(err)
			}
			if got := stored(); got != c.want {
				t.Errorf("after an update with %q: %q, want %q", c.given, got, c.want)
			}
		}
		elsewhere := serviceSpec("web", 1)
		elsewhere.TaskTemplate.ContainerSpec.Image = "other.example.org/app:1@sha256:" + strings.Repeat("a", 64)
		if _, err := r.admin.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Spec: elsewhere, NoResolveImage: true}); err != nil {
			t.Fatal(err)
		}
		if got := stored(); got != "" {
			t.Errorf("another registry would be given %q", got)
		}
	})
}

// The planner does this when an update fails: it changes only the service's row.
func TestManager_RolledBackServicePublishesItsFormerPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		publishing := func(port uint32) *swarmv1.ServiceSpec {
			s := serviceSpec("web", 1)
			s.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: port}}}
			return s
		}
		r.create(publishing(8080))
		if _, err := r.admin.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Spec: publishing(9090)}); err != nil {
			t.Fatal(err)
		}
		svc := r.service("web").GetService()
		row := svc.CloneVT()
		row.Revision, row.PreviousRevision = 1, 0
		if _, err := r.store.Commit(t.Context(), "planner", raftstore.Put(row)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		v := r.store.View()
		endpoint, _ := v.Endpoints.Get(svc.GetId())
		if got := endpoint.GetPorts(); len(got) != 1 || got[0].GetPublishedPort() != 8080 {
			t.Errorf("ports %v, want 8080", got)
		}
		for key, want := range map[string]bool{"port/ingress/tcp/8080": true, "port/ingress/tcp/9090": false} {
			if _, ok := v.Claims.Get(key); ok != want {
				t.Errorf("claim %s is there: %v, want %v", key, ok, want)
			}
		}
	})
}

func TestControl_Nodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		r.addNode("twin")
		r.addNode("twin")
		_, err := r.admin.GetNode(t.Context(), &swarmv1.GetRequest{Id: "twin"})
		refused(t, "a name of two nodes", err, errdefs.IsInvalidArgument, "ambiguous")
		_, err = r.admin.GetNode(t.Context(), &swarmv1.GetRequest{Id: "nobody"})
		refused(t, "a name of no node", err, errdefs.IsNotFound, "swarm node ls")
		if n, err := r.admin.GetNode(t.Context(), &swarmv1.GetRequest{Id: a.id[:6]}); err != nil || n.GetNode().GetId() != a.id {
			t.Errorf("by the beginning of its id: %v, %v", n, err)
		}
		self, err := r.admin.GetNode(t.Context(), &swarmv1.GetRequest{Id: "self"})
		if err != nil || !self.GetManagerStatus().GetLeader() || self.GetManagerStatus().GetReachability() != swarmv1.ManagerStatus_REACHABLE {
			t.Errorf("self: %v, %v; want the leader", self, err)
		}
		_, err = r.admin.UpdateNode(t.Context(), &swarmv1.UpdateNodeRequest{Id: "self", Spec: &swarmv1.NodeSpec{}})
		refused(t, "demotion of the last manager", err, errdefs.IsFailedPrecondition, "last manager")
		_, err = r.admin.RemoveNode(t.Context(), &swarmv1.RemoveNodeRequest{Id: "self", Force: true})
		refused(t, "removal of a manager", err, errdefs.IsFailedPrecondition, "demote it first")

		r.create(serviceSpec("web", 1))
		if a.running() != 1 {
			t.Fatalf("%d tasks on the node, want 1", a.running())
		}
		if _, err := r.admin.UpdateNode(t.Context(), &swarmv1.UpdateNodeRequest{Id: a.id, Spec: &swarmv1.NodeSpec{Availability: swarmv1.NodeSpec_DRAIN}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if a.running() != 0 {
			t.Errorf("%d tasks on a drained node, want none", a.running())
		}
	})
}

func TestControl_ClusterShowsTokensAndNoKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		before, err := r.admin.GetCluster(t.Context(), &swarmv1.GetRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if before.GetRootCa().GetJoinTokens().GetWorker() == "" || before.GetRootCa().GetSigningKey() != nil || before.GetGossipKeys()[0].GetKey() != nil {
			t.Error("a cluster is shown with join tokens and without keys")
		}
		after, err := r.admin.UpdateCluster(t.Context(), &swarmv1.UpdateClusterRequest{RotateWorkerToken: true})
		if err != nil {
			t.Fatal(err)
		}
		if after.GetRootCa().GetJoinTokens().GetWorker() == before.GetRootCa().GetJoinTokens().GetWorker() {
			t.Error("the worker token was not rotated")
		}
		if c := r.store.View().Cluster(); len(c.GetRootCa().GetSigningKey()) == 0 || len(c.GetGossipKeys()[0].GetKey()) != 32 {
			t.Error("the stored cluster has lost its keys")
		}
	})
}

// host is the Worker service of one node.
type host struct {
	swarmv1.UnimplementedWorkerServer
	logs map[string][]*swarmv1.LogRecord
}

func (h *host) Logs(req *swarmv1.TaskLogsRequest, s swarmv1.Worker_LogsServer) error {
	for _, id := range req.GetTaskIds() {
		if err := s.Send(&swarmv1.TaskLogsResponse{Records: h.logs[id]}); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) Exec(s swarmv1.Worker_ExecServer) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	if err := s.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_Stdout{Stdout: []byte(strings.Join(first.GetStart().GetCommand(), " "))}}); err != nil {
		return err
	}
	for {
		in, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_ExitCode{ExitCode: 7}})
		}
		if err != nil {
			return err
		}
		if err := s.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_Stdout{Stdout: in.GetStdin()}}); err != nil {
			return err
		}
	}
}

// withHost makes every node reachable as h.
func withHost(t *testing.T, h *host) func(*manager.Deps) {
	return func(d *manager.Deps) {
		conn := serve(t, nodeInfo(self), func(s grpc.ServiceRegistrar) { swarmv1.RegisterWorkerServer(s, h) }, func(context.Context, string) error { return nil })
		d.Conn = func(string) (grpc.ClientConnInterface, error) { return conn, nil }
	}
}

func TestControl_LogsAreMergedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{logs: map[string][]*swarmv1.LogRecord{}}
		r := newRig(t, withHost(t, h))
		r.join("host-a")
		r.join("host-b")
		id := r.create(serviceSpec("web", 2))
		start, i := time.Now(), 0
		for task := range r.store.View().TasksOfService(id) {
			for n := range 3 {
				h.logs[task.GetId()] = append(h.logs[task.GetId()], &swarmv1.LogRecord{
					TaskId: task.GetId(), Stream: swarmv1.LogRecord_STDOUT, Offset: uint64(n), Data: []byte{byte('a' + 2*n + i)},
					Timestamp: timestamppb.New(start.Add(time.Duration(2*n+i) * time.Second)),
				})
			}
			i++
		}
		for _, follow := range []bool{false, true} {
			ctx, cancel := context.WithCancel(t.Context())
			stream, err := r.admin.Logs(ctx, &swarmv1.LogsRequest{Service: "web", Options: &swarmv1.LogOptions{Tail: -1, Follow: follow}})
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for got.Len() < 6 {
				m, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				for _, rec := range m.GetRecords() {
					got.Write(rec.GetData())
				}
			}
			if got.String() != "abcdef" {
				t.Errorf("follow %t: got %q, want abcdef", follow, got.String())
			}
			if !follow {
				if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
					t.Errorf("after the last record: %v, want the end", err)
				}
			}
			cancel()
		}
	})
}

func TestControl_Exec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withHost(t, &host{}))
		r.join("host-a")
		r.create(serviceSpec("web", 1))
		stream, err := r.admin.Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		send := func(m *swarmv1.ExecInput) {
			t.Helper()
			if err := stream.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		send(&swarmv1.ExecInput{Message: &swarmv1.ExecInput_Start{Start: &swarmv1.ExecStart{TaskId: "web.1", Command: []string{"cat", "-"}}}})
		send(&swarmv1.ExecInput{Message: &swarmv1.ExecInput_Stdin{Stdin: []byte(" hello")}})
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		code := int32(-1)
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			out.Write(m.GetStdout())
			if x, ok := m.GetMessage().(*swarmv1.ExecOutput_ExitCode); ok {
				code = x.ExitCode
			}
		}
		if out.String() != "cat - hello" || code != 7 {
			t.Errorf("exec said %q and ended with %d, want %q and 7", out.String(), code, "cat - hello")
		}
	})
}

// archiver is a node's image store.
type archiver struct{}

func (archiver) Load(_ context.Context, r io.Reader, _ int64, name string, progress func(*swarmv1.ImageProgress)) ([]*swarmv1.Image, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	progress(&swarmv1.ImageProgress{Step: "unpack", Current: int64(len(data))})
	return []*swarmv1.Image{{Name: name, Digest: testDigest, Size: int64(len(data))}}, nil
}

func (archiver) Push(context.Context, string, string, func(*swarmv1.ImageProgress)) error { return nil }

func (archiver) Pull(_ context.Context, ref, _ string, _ func(*swarmv1.ImageProgress)) (*swarmv1.Image, error) {
	return &swarmv1.Image{Name: ref, Digest: testDigest}, nil
}

func TestControl_ImageIsLoadedKeptAndRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(d *manager.Deps) { d.Images, d.Resolver = archiver{}, nil })
		workers := []*worker{r.join("host-a"), r.join("host-b"), r.join("host-c"), r.join("host-d")}
		stream, err := r.admin.LoadImage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i, part := range []string{"some ", "bytes"} {
			m := &swarmv1.LoadImageRequest{Data: []byte(part)}
			if i == 0 {
				m.Name = "demo:1"
			}
			if err := stream.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		var last *swarmv1.Image
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			last = m.GetImage()
		}
		if last.GetName() != "docker.io/library/demo:1" || !last.GetLoaded() || last.GetSize() != 10 {
			t.Errorf("loaded %v", last)
		}
		synctest.Wait()
		keepers := 0
		for _, w := range workers {
			w.mu.Lock()
			for _, m := range w.messages {
				for _, c := range m.GetChanges() {
					if c.GetPut().GetImage() != nil {
						keepers++
					}
				}
			}
			w.mu.Unlock()
		}
		if keepers != 3 {
			t.Errorf("%d nodes are to keep a loaded image, want 3", keepers)
		}
		r.create(serviceSpec("web", 1))
		if image := r.service("web").GetRevision().GetSpec().GetTaskTemplate().GetContainerSpec().GetImage(); image != "docker.io/library/demo:1@"+testDigest {
			t.Errorf("image is %q, want the loaded one's digest", image)
		}
		_, err = r.admin.RemoveImage(t.Context(), &swarmv1.RemoveClusterImageRequest{Id: "demo:1"})
		refused(t, "removal of an image in use", err, errdefs.IsFailedPrecondition, "used by service web")
		if _, err := r.admin.RemoveImage(t.Context(), &swarmv1.RemoveClusterImageRequest{Id: "demo:1", Force: true}); err != nil {
			t.Fatal(err)
		}
		if _, ok := r.store.View().ImageByName("docker.io/library/demo:1"); ok {
			t.Error("the image is still known")
		}
	})
}

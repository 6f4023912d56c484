package manager_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/manager"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

var otherDigest = "sha256:" + strings.Repeat("e", 64)

// carrier is a node's worker that pulls and pushes images.
type carrier struct {
	swarmv1.UnimplementedWorkerServer
	node  string
	lacks bool // a part of every image
	full  bool

	mu    *sync.Mutex // guards moves
	moves *[]string
}

func (c *carrier) note(move string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*c.moves = append(*c.moves, c.node+" "+move)
}

func (c *carrier) PullImage(req *swarmv1.PullImageRequest, stream grpc.ServerStreamingServer[swarmv1.ImageProgress]) error {
	if c.full {
		return errdefs.ErrResourceExhausted.WithMessage("no space left on device")
	}
	c.note("pulls " + req.Reference)
	return errors.Join(
		stream.Send(&swarmv1.ImageProgress{Id: "layer", Step: "Downloading"}),
		// The node reports another image, which must have no effect.
		stream.Send(&swarmv1.ImageProgress{Step: "done", Image: &swarmv1.Image{Name: "other:1", Digest: otherDigest, Size: 1 << 60}}))
}

func (c *carrier) PushImage(req *swarmv1.PushImageRequest, stream grpc.ServerStreamingServer[swarmv1.ImageProgress]) error {
	if c.lacks {
		return errdefs.ErrNotFound.WithMessage("this node holds it without a part")
	}
	c.note("pushes " + req.Reference + " as " + req.RegistryAuth)
	return stream.Send(&swarmv1.ImageProgress{Step: "done"})
}

func drain(t *testing.T, stream grpc.ServerStreamingClient[swarmv1.ImageProgress], err error) (last *swarmv1.ImageProgress, _ error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return last, nil
		}
		if err != nil {
			return nil, err
		}
		last = m
	}
}

func TestControl_ImagesMoveBetweenNodesAndRegistries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var moves []string
		lacking := map[string]bool{}
		r := newRig(t, func(d *manager.Deps) {
			d.Resolver = digests{"docker.io/library/demo:1": testDigest}
			d.Conn = func(node string) (grpc.ClientConnInterface, error) {
				c := &carrier{node: node, lacks: lacking[node], mu: &mu, moves: &moves}
				return serve(t, nodeInfo(self), func(s grpc.ServiceRegistrar) { swarmv1.RegisterWorkerServer(s, c) }, func(context.Context, string) error { return nil }), nil
			}
			d.Login = func(_ context.Context, registry, auth string) error {
				if auth != "right" {
					return errdefs.ErrUnauthenticated.WithMessage("registry " + registry + " does not take it")
				}
				return nil
			}
		})
		a, b := r.join("host-a"), r.join("host-b")
		synctest.Wait()

		last, err := drain(t, must(r.admin.PullImage(t.Context(), &swarmv1.PullImageClusterRequest{Reference: "demo:1", Nodes: []string{a.id, b.id, a.id}})), nil)
		if err != nil || last.GetImage().GetDigest() != testDigest || last.GetNode() == "" {
			t.Fatalf("pull: got %v, %v", last, err)
		}
		if len(moves) != 2 || moves[0] != a.id+" pulls docker.io/library/demo:1@"+testDigest {
			t.Errorf("pulls: got %q, want each node once, the first named first", moves)
		}

		if _, err := r.admin.TagImage(t.Context(), &swarmv1.TagImageRequest{Source: "demo:1", Target: "r:5000/team/demo:2"}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second changes nothing
			info, err := r.admin.TagImage(t.Context(), &swarmv1.TagImageRequest{Source: testDigest, Target: "r:5000/team/demo:2"})
			if err != nil || info.GetImage().GetDigest() != testDigest || len(info.GetNodeIds()) != 2 {
				t.Errorf("tag: got %v, %v", info, err)
			}
		}
		_, err = r.admin.TagImage(t.Context(), &swarmv1.TagImageRequest{Source: "demo:1", Target: "demo@" + testDigest})
		refused(t, "a digest for a tag", err, errdefs.IsInvalidArgument, "has no digest")
		_, err = r.admin.TagImage(t.Context(), &swarmv1.TagImageRequest{Source: "nobody:1", Target: "demo:9"})
		refused(t, "a tag of nothing", err, errdefs.IsNotFound, "nobody:1")

		moves = nil
		holders := []string{a.id, b.id}
		slices.Sort(holders)
		lacking[holders[0]] = true
		push := &swarmv1.PushImageClusterRequest{Reference: "r:5000/team/demo:2", RegistryAuth: "right"}
		if last, err := drain(t, must(r.admin.PushImage(t.Context(), push)), nil); err != nil || last.GetImage().GetDigest() != testDigest {
			t.Errorf("push: got %v, %v", last, err)
		}
		if want := holders[1] + " pushes r:5000/team/demo:2@" + testDigest + " as right"; len(moves) != 1 || moves[0] != want {
			t.Errorf("pushes: got %q, want %q", moves, want)
		}
		lacking[holders[1]] = true
		_, err = drain(t, must(r.admin.PushImage(t.Context(), push)), nil)
		refused(t, "push of what nobody holds", err, errdefs.IsNotFound, "without a part")
		_, err = drain(t, must(r.admin.PushImage(t.Context(), &swarmv1.PushImageClusterRequest{Reference: "demo:3"})), nil)
		refused(t, "push of an unknown name", err, errdefs.IsNotFound, "swarm image tag")

		if _, err := r.admin.Login(t.Context(), &swarmv1.LoginRequest{Server: "r:5000", RegistryAuth: "right"}); err != nil {
			t.Error(err)
		}
		_, err = r.admin.Login(t.Context(), &swarmv1.LoginRequest{Server: "r:5000", RegistryAuth: "wrong"})
		refused(t, "a wrong login", err, errdefs.IsUnauthorized, "does not take it")
	})
}

// A node that cannot pull an image is named in the answer, and the others pull it all the same.
func TestControl_PullGoesOnWhereItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var moves []string
		var full string
		r := newRig(t, func(d *manager.Deps) {
			d.Conn = func(node string) (grpc.ClientConnInterface, error) {
				c := &carrier{node: node, full: node == full, mu: &mu, moves: &moves}
				return serve(t, nodeInfo(self), func(s grpc.ServiceRegistrar) { swarmv1.RegisterWorkerServer(s, c) }, func(context.Context, string) error { return nil }), nil
			}
		})
		a, b, c := r.join("host-a"), r.join("host-b"), r.join("host-c")
		full = b.id
		synctest.Wait()
		_, err := drain(t, must(r.admin.PullImage(t.Context(), &swarmv1.PullImageClusterRequest{Reference: "demo:1", Nodes: []string{a.id, b.id, c.id}})), nil)
		refused(t, "a pull of three nodes of which one is full", err, errdefs.IsResourceExhausted, "host-b: no space left")
		if want := c.id + " pulls docker.io/library/demo:1@" + testDigest; !slices.Contains(moves, want) {
			t.Errorf("pulls: got %q, want also %q", moves, want)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A pulled image resolves to the digest that its registry has now. A loaded image, and one that no
// registry has, resolves to the digest that the cluster has.
func TestControl_PinsWhatTheRegistryHasNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, now := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
		r := newRig(t, func(d *manager.Deps) {
			d.Resolver = digests{"docker.io/library/pulled:1": now, "docker.io/library/loaded:1": now}
		})
		for i, row := range []*swarmv1.Image{
			{Name: "docker.io/library/pulled:1"}, {Name: "docker.io/library/loaded:1", Loaded: true}, {Name: "docker.io/library/gone:1"},
		} {
			row.Id, row.Digest = strings.Repeat(string(rune('a'+i)), 25), old
			r.commit(raftstore.Create(row))
		}
		for image, want := range map[string]string{"pulled:1": now, "loaded:1": old, "gone:1": old} {
			s := serviceSpec(strings.TrimSuffix(image, ":1"), 0)
			s.TaskTemplate.ContainerSpec.Image = image
			r.create(s)
			if got := r.service(s.GetName()).GetRevision().GetSpec().GetTaskTemplate().GetContainerSpec().GetImage(); !strings.HasSuffix(got, "@"+want) {
				t.Errorf("%s: got %s, want digest %s", image, got, want)
			}
		}
	})
}

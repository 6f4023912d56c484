package image_test

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

	"swarm/manager/control"
	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

var otherDigest = "sha256:" + strings.Repeat("e", 64)

// carrier is the Worker service of a node that pulls and pushes images.
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
		// The manager does not trust a node's description of the image.
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

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// unreachable is a Resolver that reaches only the registries of the images in it.
type unreachable struct{ controltest.Digests }

func (u unreachable) Resolve(ctx context.Context, ref, auth string) (string, error) {
	if u.Digests[ref] == "" {
		return "", errdefs.ErrUnavailable.WithMessage("no route to the registry")
	}
	return u.Digests.Resolve(ctx, ref, auth)
}

func TestControl_ImageOfARollbackStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		images := controltest.Digests{}
		for _, tag := range []string{"1", "2", "3"} {
			images["docker.io/library/demo:"+tag] = "sha256:" + strings.Repeat(tag, 64)
		}
		r := controltest.New(t, func(d *control.Deps) { d.Resolver = images })
		for name, digest := range images {
			r.Commit(table.Create(&swarmv1.Image{Id: digest[len(digest)-24:] + name[len(name)-1:], Name: name, Digest: digest}))
		}
		remove := func(name string) error {
			_, err := r.Control.RemoveImage(t.Context(), &swarmv1.RemoveClusterImageRequest{Id: name})
			return err
		}
		run := func(image string) {
			t.Helper()
			s := controltest.ServiceSpec("web", 1)
			s.TaskTemplate.ContainerSpec.Image = image
			if _, err := r.Control.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Spec: s}); err != nil {
				t.Fatal(err)
			}
		}
		r.CreateService(controltest.ServiceSpec("web", 1))
		run("demo:2")
		controltest.Refused(t, "removal of what a rollback needs", remove("demo:1"), errdefs.IsFailedPrecondition, "used by service web")
		controltest.Refused(t, "removal of what runs", remove("demo:2"), errdefs.IsFailedPrecondition, "used by service web")
		if err := remove("demo:3"); err != nil {
			t.Errorf("removal of an image that nobody needs: %v", err)
		}
		r.Commit(table.Create(&swarmv1.Image{Id: "second2name2of2what2runs2", Name: "docker.io/library/demo:stable", Digest: images["docker.io/library/demo:2"]}))
		if err := remove("demo:2"); err != nil {
			t.Errorf("removal of one of two names of what runs: %v", err)
		}
		controltest.Refused(t, "removal of the last name of what runs", remove("demo:stable"), errdefs.IsFailedPrecondition, "used by service web")
	})
}

func TestControl_ImagesMoveBetweenNodesAndRegistries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var moves []string
		lacking := map[string]bool{}
		r := controltest.New(t, func(d *control.Deps) {
			d.Resolver = controltest.Digests{"docker.io/library/demo:1": controltest.Digest}
			d.Conn = func(node string) (grpc.ClientConnInterface, error) {
				c := &carrier{node: node, lacks: lacking[node], mu: &mu, moves: &moves}
				return controltest.ServeWorker(t, c), nil
			}
			d.Login = func(_ context.Context, registry, auth string) error {
				if auth != "right" {
					return errdefs.ErrUnauthenticated.WithMessage("registry " + registry + " does not take it")
				}
				return nil
			}
		})
		a, b := r.AddNode("host-a"), r.AddNode("host-b")

		last, err := drain(t, must(r.Control.PullImage(t.Context(), &swarmv1.PullImageClusterRequest{Reference: "demo:1", Nodes: []string{a, b, a}})), nil)
		if err != nil || last.GetImage().GetDigest() != controltest.Digest || last.GetNode() == "" {
			t.Fatalf("pull: got %v, %v", last, err)
		}
		if len(moves) != 2 || moves[0] != a+" pulls docker.io/library/demo:1@"+controltest.Digest {
			t.Errorf("pulls: got %q, want each node once, the first named first", moves)
		}

		if _, err := r.Control.TagImage(t.Context(), &swarmv1.TagImageRequest{Source: "demo:1", Target: "r:5000/team/demo:2"}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second changes nothing
			info, err := r.Control.TagImage(t.Context(), &swarmv1.TagImageRequest{Source: controltest.Digest, Target: "r:5000/team/demo:2"})
			if err != nil || info.GetImage().GetDigest() != controltest.Digest || len(info.GetNodeIds()) != 2 {
				t.Errorf("tag: got %v, %v", info, err)
			}
		}
		_, err = r.Control.TagImage(t.Context(), &swarmv1.TagImageRequest{Source: "demo:1", Target: "demo@" + controltest.Digest})
		controltest.Refused(t, "a digest for a tag", err, errdefs.IsInvalidArgument, "has no digest")
		_, err = r.Control.TagImage(t.Context(), &swarmv1.TagImageRequest{Source: "nobody:1", Target: "demo:9"})
		controltest.Refused(t, "a tag of nothing", err, errdefs.IsNotFound, "nobody:1")

		moves = nil
		holders := []string{a, b}
		slices.Sort(holders)
		lacking[holders[0]] = true
		push := &swarmv1.PushImageClusterRequest{Reference: "r:5000/team/demo:2", RegistryAuth: "right"}
		if last, err := drain(t, must(r.Control.PushImage(t.Context(), push)), nil); err != nil || last.GetImage().GetDigest() != controltest.Digest {
			t.Errorf("push: got %v, %v", last, err)
		}
		if want := holders[1] + " pushes r:5000/team/demo:2@" + controltest.Digest + " as right"; len(moves) != 1 || moves[0] != want {
			t.Errorf("pushes: got %q, want %q", moves, want)
		}
		lacking[holders[1]] = true
		_, err = drain(t, must(r.Control.PushImage(t.Context(), push)), nil)
		controltest.Refused(t, "push of what nobody holds", err, errdefs.IsNotFound, "without a part")
		_, err = drain(t, must(r.Control.PushImage(t.Context(), &swarmv1.PushImageClusterRequest{Reference: "demo:3"})), nil)
		controltest.Refused(t, "push of an unknown name", err, errdefs.IsNotFound, "swarm image tag")

		if _, err := r.Control.Login(t.Context(), &swarmv1.LoginRequest{Server: "r:5000", RegistryAuth: "right"}); err != nil {
			t.Error(err)
		}
		_, err = r.Control.Login(t.Context(), &swarmv1.LoginRequest{Server: "r:5000", RegistryAuth: "wrong"})
		controltest.Refused(t, "a wrong login", err, errdefs.IsUnauthorized, "does not take it")
	})
}

// A node that cannot pull an image is in the error. The other nodes pull it.
func TestControl_PullGoesOnWhereItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var moves []string
		var full string
		r := controltest.New(t, func(d *control.Deps) {
			d.Conn = func(node string) (grpc.ClientConnInterface, error) {
				c := &carrier{node: node, full: node == full, mu: &mu, moves: &moves}
				return controltest.ServeWorker(t, c), nil
			}
		})
		a, b, c := r.AddNode("host-a"), r.AddNode("host-b"), r.AddNode("host-c")
		full = b
		_, err := drain(t, must(r.Control.PullImage(t.Context(), &swarmv1.PullImageClusterRequest{Reference: "demo:1", Nodes: []string{a, b, c}})), nil)
		controltest.Refused(t, "a pull of three nodes of which one is full", err, errdefs.IsResourceExhausted, "host-b: no space left")
		if want := c + " pulls docker.io/library/demo:1@" + controltest.Digest; !slices.Contains(moves, want) {
			t.Errorf("pulls: got %q, want also %q", moves, want)
		}
	})
}

// A pull writes the digest that the manager found, not the one that a node reports. A loaded image
// keeps its row. Without a digest no row is written.
func TestControl_PullIsByTheManagersDigest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var moves []string
		known := controltest.Digests{"docker.io/library/pulled:1": controltest.Digest, "docker.io/library/loaded:1": controltest.Digest}
		r := controltest.New(t, func(d *control.Deps) {
			d.Resolver = unreachable{known}
			d.Conn = func(node string) (grpc.ClientConnInterface, error) {
				c := &carrier{node: node, mu: &mu, moves: &moves}
				return controltest.ServeWorker(t, c), nil
			}
		})
		a := r.AddNode("host-a")
		old := "sha256:" + strings.Repeat("a", 64)
		for i, row := range []*swarmv1.Image{
			{Name: "docker.io/library/pulled:1", Size: 7}, {Name: "docker.io/library/loaded:1", Size: 7, Loaded: true},
		} {
			row.Id, row.Digest = strings.Repeat(string(rune('a'+i)), 25), old
			r.Commit(table.Create(row))
		}
		for _, c := range []struct {
			ref, asked, digest string
			size               int64
		}{
			{"pulled:1", "docker.io/library/pulled:1@" + controltest.Digest, controltest.Digest, 0},
			{"loaded:1", "docker.io/library/loaded:1@" + old, old, 7},
			{"nowhere.example/app:1", "nowhere.example/app:1", "", 0},
		} {
			moves = nil
			first, err := r.Control.PullImage(t.Context(), &swarmv1.PullImageClusterRequest{Reference: c.ref, Nodes: []string{a}})
			last, err := drain(t, first, err)
			if err != nil || last.GetImage().GetDigest() != c.digest || len(moves) != 1 || moves[0] != a+" pulls "+c.asked {
				t.Errorf("%s: got %v, %v, moves %q; want digest %q, and the node asked for %s", c.ref, last, err, moves, c.digest, c.asked)
			}
			name, _, _ := strings.Cut(c.asked, "@")
			row, ok := r.Store.View().Images.ByName(name)
			if ok != (c.digest != "") || row.GetDigest() != c.digest || row.GetSize() != c.size {
				t.Errorf("%s: the row is %v", c.ref, row)
			}
		}
		for img := range r.Store.View().Images.All() {
			if strings.Contains(img.GetName(), "other") || img.GetDigest() == otherDigest {
				t.Errorf("a node's answer became image %v", img)
			}
		}
	})
}

package manager_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"swarm/manager"
	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
)

func refused(t *testing.T, what string, err error, class func(error) bool, says string) {
	t.Helper()
	controltest.Refused(t, what, err, class, says)
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
			t.Errorf("loaded image: got %v, want docker.io/library/demo:1 of 10 bytes", last)
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
		if _, ok := r.store.View().Images.ByName("docker.io/library/demo:1"); ok {
			t.Error("the removed image is still listed")
		}
	})
}

func TestManager_DrainedNodeLosesItsTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
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

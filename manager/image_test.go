package manager_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"

	"swarm/manager"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// digests is a registry: it has the digest of each image by reference.
type digests map[string]string

func (d digests) Resolve(_ context.Context, ref, _ string) (string, error) {
	digest, ok := d[ref]
	if !ok {
		return "", errdefs.ErrNotFound
	}
	return digest, nil
}

func TestControl_ImageOfARollbackStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		images := digests{}
		for _, tag := range []string{"1", "2", "3"} {
			images["docker.io/library/demo:"+tag] = "sha256:" + strings.Repeat(tag, 64)
		}
		r := newRig(t, func(d *manager.Deps) { d.Resolver = images })
		r.join("host-a")
		for name, digest := range images {
			r.commit(raftstore.Create(&swarmv1.Image{Id: digest[len(digest)-24:] + name[len(name)-1:], Name: name, Digest: digest}))
		}
		remove := func(name string) error {
			_, err := r.admin.RemoveImage(t.Context(), &swarmv1.RemoveClusterImageRequest{Id: name})
			return err
		}
		run := func(image string) {
			t.Helper()
			s := serviceSpec("web", 1)
			s.TaskTemplate.ContainerSpec.Image = image
			if _, err := r.admin.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Spec: s}); err != nil {
				t.Fatal(err)
			}
		}
		r.create(serviceSpec("web", 1))
		run("demo:2")
		refused(t, "removal of what a rollback needs", remove("demo:1"), errdefs.IsFailedPrecondition, "used by service web")
		refused(t, "removal of what runs", remove("demo:2"), errdefs.IsFailedPrecondition, "used by service web")
		if err := remove("demo:3"); err != nil {
			t.Errorf("removal of an image that nobody needs: %v", err)
		}
		r.commit(raftstore.Create(&swarmv1.Image{Id: "second2name2of2what2runs2", Name: "docker.io/library/demo:stable", Digest: images["docker.io/library/demo:2"]}))
		if err := remove("demo:2"); err != nil {
			t.Errorf("removal of one of two names of what runs: %v", err)
		}
		refused(t, "removal of the last name of what runs", remove("demo:stable"), errdefs.IsFailedPrecondition, "used by service web")
	})
}

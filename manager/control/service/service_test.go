package service_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"

	"swarm/manager/control"
	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

func TestControl_RefusesServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, func(d *control.Deps) {
			d.Resolver = controltest.Registry{
				"docker.io/library/nosuch:1":  errdefs.ErrNotFound,
				"docker.io/library/private:1": errdefs.ErrUnauthenticated,
				"docker.io/library/faraway:1": errors.New("no route to host"),
			}
		})
		create := func(edit func(*swarmv1.ServiceSpec)) (*swarmv1.CreateServiceResponse, error) {
			s := controltest.ServiceSpec("other", 1)
			edit(s)
			return r.Control.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: s})
		}
		web := controltest.ServiceSpec("web", 0)
		web.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: 8080}, {TargetPort: 81}}}
		id := r.CreateService(web)
		if ports := r.Service("web").GetEndpoint().GetPorts(); len(ports) != 2 || ports[1].GetPublishedPort() != 30000 {
			t.Errorf("ports of the endpoint: %v, want the second chosen as 30000", ports)
		}
		image := func(s string) func(*swarmv1.ServiceSpec) {
			return func(sp *swarmv1.ServiceSpec) { sp.TaskTemplate.ContainerSpec.Image = s }
		}
		_, err := create(func(s *swarmv1.ServiceSpec) { s.Name = "web" })
		controltest.Refused(t, "a name in use", err, errdefs.IsAlreadyExists, "already taken by service "+id)
		_, err = create(func(s *swarmv1.ServiceSpec) { s.Name = "a b" })
		controltest.Refused(t, "an invalid name", err, errdefs.IsInvalidArgument, "not valid")
		_, err = create(func(s *swarmv1.ServiceSpec) { s.EndpointSpec = web.EndpointSpec })
		controltest.Refused(t, "a port in use", err, errdefs.IsAlreadyExists, "port 8080/tcp is already published by service web")
		_, err = create(func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.Networks = []*swarmv1.NetworkAttachmentConfig{{Target: "lan"}}
		})
		controltest.Refused(t, "an unknown network", err, errdefs.IsNotFound, "network lan not found")
		_, err = create(image("nosuch:1"))
		controltest.Refused(t, "an unknown image", err, errdefs.IsNotFound, "unknown image nosuch:1")
		_, err = create(image("private:1"))
		controltest.Refused(t, "an image behind a login", err, errdefs.IsPermissionDenied, "swarm login docker.io")
		if n := r.Store.View().Services.Len(); n != 1 {
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
		r := controltest.New(t)
		r.CreateService(controltest.ServiceSpec("web", 1))
		old := r.Service("web").GetService().GetMeta().GetVersion()
		update := func(edit func(*swarmv1.ServiceSpec), version uint64) (*swarmv1.UpdateServiceResponse, error) {
			s := controltest.ServiceSpec("web", 1)
			edit(s)
			return r.Control.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Version: version, Spec: s})
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
		controltest.Refused(t, "an update of an older version", err, errdefs.IsAborted, "changed meanwhile")
		_, err = update(func(s *swarmv1.ServiceSpec) { s.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Global{}} }, 0)
		controltest.Refused(t, "another mode", err, errdefs.IsInvalidArgument, "cannot become global")
		third, err := update(func(*swarmv1.ServiceSpec) {}, 0)
		if err != nil || third.GetRevision() != 3 {
			t.Fatalf("update back: %v, %v", third, err)
		}
		revs, err := r.Control.ListRevisions(t.Context(), &swarmv1.GetRequest{Id: "web"})
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
		back, err := r.Control.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Rollback: true})
		if err != nil || back.GetRevision() != 2 {
			t.Errorf("rollback: %v, %v; want revision 2", back, err)
		}
	})
}

// Clients do not see credentials, so an update that is made from the returned spec has none.
func TestControl_UpdateKeepsTheCredentialsToPullWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		s := controltest.ServiceSpec("web", 1)
		s.TaskTemplate.ContainerSpec.PullOptions = &swarmv1.PullOptions{RegistryAuth: "first"}
		r.CreateService(s)
		stored := func() string {
			svc := r.Service("web").GetService()
			rev, _ := r.Store.View().Revision(svc.GetId(), svc.GetRevision())
			return rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetPullOptions().GetRegistryAuth()
		}
		shown := r.Service("web").GetRevision().GetSpec()
		if shown.GetTaskTemplate().GetContainerSpec().GetPullOptions() != nil {
			t.Fatalf("credentials are shown: %v", shown)
		}
		for _, c := range []struct{ given, want string }{{"", "first"}, {"second", "second"}} {
			next := controltest.ServiceSpec("web", 1)
			next.TaskTemplate.ContainerSpec.Env = []string{"FOR=" + c.want}
			if c.given != "" {
				next.TaskTemplate.ContainerSpec.PullOptions = &swarmv1.PullOptions{RegistryAuth: c.given}
			}
			if _, err := r.Control.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Spec: next}); err != nil {
				t.Fatal(err)
			}
			if got := stored(); got != c.want {
				t.Errorf("after an update with %q: %q, want %q", c.given, got, c.want)
			}
		}
		elsewhere := controltest.ServiceSpec("web", 1)
		elsewhere.TaskTemplate.ContainerSpec.Image = "other.example.org/app:1@sha256:" + strings.Repeat("a", 64)
		if _, err := r.Control.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Spec: elsewhere, NoResolveImage: true}); err != nil {
			t.Fatal(err)
		}
		if got := stored(); got != "" {
			t.Errorf("another registry would be given %q", got)
		}
	})
}

// The digest of a pulled image is the one that its registry has now. The digest of a loaded image,
// and of one that the registry does not have any more, is the one that the cluster has.
func TestControl_PinsWhatTheRegistryHasNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, now := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
		r := controltest.New(t, func(d *control.Deps) {
			d.Resolver = controltest.Digests{"docker.io/library/pulled:1": now, "docker.io/library/loaded:1": now}
		})
		for i, row := range []*swarmv1.Image{
			{Name: "docker.io/library/pulled:1"}, {Name: "docker.io/library/loaded:1", Loaded: true}, {Name: "docker.io/library/gone:1"},
		} {
			row.Id, row.Digest = strings.Repeat(string(rune('a'+i)), 25), old
			r.Commit(table.Create(row))
		}
		for image, want := range map[string]string{"pulled:1": now, "loaded:1": old, "gone:1": old} {
			s := controltest.ServiceSpec(strings.TrimSuffix(image, ":1"), 0)
			s.TaskTemplate.ContainerSpec.Image = image
			r.CreateService(s)
			if got := r.Service(s.GetName()).GetRevision().GetSpec().GetTaskTemplate().GetContainerSpec().GetImage(); !strings.HasSuffix(got, "@"+want) {
				t.Errorf("%s: got %s, want digest %s", image, got, want)
			}
		}
	})
}

package manager_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// What a removed service held can be taken over right after its removal: the call that takes it
// waits until the tasks of the removed service have stopped.
func TestControl_TakesOverFromARemovedService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		synctest.Wait()
		web := attached(serviceSpec("web", 2), r.network("front").GetSpec().GetName())
		web.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: 8080}}}
		old := r.create(web)
		remove := func() {
			t.Helper()
			a.delay()
			if _, err := r.admin.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "web"}); err != nil {
				t.Fatal(err)
			}
		}
		takes := func(what string, f func() error) {
			t.Helper()
			began := time.Now()
			time.AfterFunc(2*time.Second, a.speak)
			if err := f(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if took := time.Since(began); took < 2*time.Second || took > 3*time.Second {
				t.Errorf("%s took %v, want as long as the tasks", what, took)
			}
		}

		remove()
		takes("a service of the same name, port and network", func() error {
			got, err := r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: web})
			if err == nil && got.GetId() == old {
				t.Error("it is the old service")
			}
			return err
		})
		synctest.Wait()

		remove()
		takes("another service at the same port", func() error {
			s := serviceSpec("api", 0)
			s.EndpointSpec = web.GetEndpointSpec()
			_, err := r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: s})
			return err
		})
		synctest.Wait()

		web.EndpointSpec = nil
		r.create(web)
		remove()
		takes("the removal of its network", func() error {
			_, err := r.admin.RemoveNetwork(t.Context(), &swarmv1.GetRequest{Id: "front"})
			return err
		})
	})
}

// A call that waits for tasks that do not end fails with the reason.
func TestControl_WaitsNoLongerThanPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		synctest.Wait()
		r.network("front")
		r.create(attached(serviceSpec("web", 1), "front"))
		a.delay()
		if _, err := r.admin.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "web"}); err != nil {
			t.Fatal(err)
		}
		_, err := r.admin.RemoveNetwork(t.Context(), &swarmv1.GetRequest{Id: "front"})
		refused(t, "the network of a service that is being removed", err, errdefs.IsFailedPrecondition, "in use by service web, still being removed")
		_, err = r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: serviceSpec("web", 1)})
		refused(t, "its name", err, errdefs.IsFailedPrecondition, "service web is still being removed")
	})
}

package service_test

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
)

// The names of two services, or two networks, differ in more than case, because they are names in
// DNS.
func TestControl_NamesAreUniqueWithoutCase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		r.CreateNetwork("N12")
		synctest.Wait()
		before := r.Claims()
		id := r.CreateService(controltest.ServiceSpec("api", 1))
		_, err := r.Control.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: controltest.ServiceSpec("Api", 1)})
		controltest.Refused(t, "service Api", err, errdefs.IsAlreadyExists,
			"service name Api differs only in case from that of service api ("+id+"), and DNS knows no case: choose another name, or change that one with `swarm service update`")
		_, err = r.Control.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: "n12"}})
		controltest.Refused(t, "network n12", err, errdefs.IsAlreadyExists, "network name n12 differs only in case from that of network N12 (")
		for _, name := range []string{"Ingress", "HOST"} {
			_, err = r.Control.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: name}})
			controltest.Refused(t, "network "+name, err, errdefs.IsInvalidArgument, "choose another name")
		}
		if _, err := r.Control.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "API"}); err != nil {
			t.Fatal(err)
		}
		former := id
		time.AfterFunc(time.Second, func() { r.FinishRemoval(former) })
		// The name is free again once the tasks have stopped, in every spelling.
		id = r.CreateService(controltest.ServiceSpec("API", 1))
		synctest.Wait() // until FinishRemoval has returned
		if _, err := r.Control.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "api"}); err != nil {
			t.Fatal(err)
		}
		r.FinishRemoval(id)
		if diff := cmp.Diff(before, r.Claims()); diff != "" {
			t.Errorf("claims are left:\n%s", diff)
		}
	})
}

// Of services that are created at the same time with one name in different case, one succeeds.
func TestControl_NamesAreUniqueAtTheSameMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		var wg sync.WaitGroup
		var mu sync.Mutex // guards made
		made := 0
		for _, name := range []string{"api", "Api", "aPi", "apI", "APi", "ApI", "aPI", "API"} {
			wg.Go(func() {
				_, err := r.Control.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: controltest.ServiceSpec(name, 1)})
				if err == nil {
					mu.Lock()
					made++
					mu.Unlock()
				} else if !strings.Contains(err.Error(), "differs only in case") {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		wg.Wait()
		if list, err := r.Control.ListServices(t.Context(), &swarmv1.ListRequest{}); err != nil || made != 1 || len(list.GetServices()) != 1 {
			t.Errorf("%d were created, the list has %v (%v), want one", made, list.GetServices(), err)
		}
	})
}

// A call that needs a name or port of a removed service waits until the tasks of the service have
// stopped.
func TestControl_TakesOverFromARemovedService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		web := controltest.Attached(controltest.ServiceSpec("web", 2), r.CreateNetwork("front").GetSpec().GetName())
		web.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: 8080}}}
		old := r.CreateService(web)
		leaving := old
		remove := func() {
			t.Helper()
			if _, err := r.Control.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "web"}); err != nil {
				t.Fatal(err)
			}
		}
		takes := func(what string, f func() error) {
			t.Helper()
			began := time.Now()
			time.AfterFunc(2*time.Second, func() { r.FinishRemoval(leaving) })
			if err := f(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			synctest.Wait() // until FinishRemoval has returned
			if took := time.Since(began); took < 2*time.Second || took > 3*time.Second {
				t.Errorf("%s took %v, want as long as the tasks", what, took)
			}
		}

		remove()
		takes("a service of the same name, port and network", func() error {
			got, err := r.Control.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: web})
			if leaving = got.GetId(); leaving == old {
				t.Error("it is the old service")
			}
			return err
		})
		synctest.Wait()

		remove()
		takes("another service at the same port", func() error {
			s := controltest.ServiceSpec("api", 0)
			s.EndpointSpec = web.GetEndpointSpec()
			_, err := r.Control.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: s})
			return err
		})
		synctest.Wait()

		web.EndpointSpec = nil
		leaving = r.CreateService(web)
		remove()
		takes("the removal of its network", func() error {
			_, err := r.Control.RemoveNetwork(t.Context(), &swarmv1.GetRequest{Id: "front"})
			return err
		})
	})
}

// A call that waits for tasks which do not stop is refused, with the reason.
func TestControl_WaitsNoLongerThanRemovalTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		r.CreateNetwork("front")
		r.CreateService(controltest.Attached(controltest.ServiceSpec("web", 1), "front"))
		if _, err := r.Control.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "web"}); err != nil {
			t.Fatal(err)
		}
		_, err := r.Control.RemoveNetwork(t.Context(), &swarmv1.GetRequest{Id: "front"})
		controltest.Refused(t, "the network of a service that is being removed", err, errdefs.IsFailedPrecondition, "in use by service web, still being removed")
		_, err = r.Control.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: controltest.ServiceSpec("web", 1)})
		controltest.Refused(t, "its name", err, errdefs.IsFailedPrecondition, "service web is still being removed")
	})
}

package manager_test

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	swarmv1 "swarm/proto/swarm/v1"
)

// DNS ignores case, so that no two services and no two networks may have names that differ in case
// alone.
func TestControl_NamesAreUniqueWithoutCase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.join("h1")
		r.network("N12")
		synctest.Wait()
		before := r.claims()
		id := r.create(serviceSpec("api", 1))
		_, err := r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: serviceSpec("Api", 1)})
		refused(t, "service Api", err, errdefs.IsAlreadyExists,
			"service name Api differs only in case from that of service api ("+id+"), and DNS knows no case: choose another name, or change that one with `swarm service update`")
		_, err = r.admin.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: "n12"}})
		refused(t, "network n12", err, errdefs.IsAlreadyExists, "network name n12 differs only in case from that of network N12 (")
		for _, name := range []string{"Ingress", "HOST"} {
			_, err = r.admin.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: name}})
			refused(t, "network "+name, err, errdefs.IsInvalidArgument, "choose another name")
		}
		if _, err := r.admin.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "API"}); err != nil {
			t.Fatal(err)
		}
		// The name is free again once the tasks have stopped, in every spelling.
		r.create(serviceSpec("API", 1))
		if _, err := r.admin.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "api"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff(before, r.claims()); diff != "" {
			t.Errorf("claims are left:\n%s", diff)
		}
	})
}

// Of services that are created at the same moment with one name in many spellings, one gets the
// name.
func TestControl_NamesAreUniqueAtTheSameMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.join("h1")
		synctest.Wait()
		var wg sync.WaitGroup
		var mu sync.Mutex // guards made
		made := 0
		for _, name := range []string{"api", "Api", "aPi", "apI", "APi", "ApI", "aPI", "API"} {
			wg.Go(func() {
				_, err := r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: serviceSpec(name, 1)})
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
		if list, err := r.admin.ListServices(t.Context(), &swarmv1.ListRequest{}); err != nil || made != 1 || len(list.GetServices()) != 1 {
			t.Errorf("%d were created, the list has %v (%v), want one", made, list.GetServices(), err)
		}
	})
}

// A host may join with the hostname of another node, but an operator cannot give a node such a
// name.
func TestControl_NodesAreNotRenamedToEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		one, two := r.join("h1"), r.join("h2")
		synctest.Wait()
		_, err := r.admin.UpdateNode(t.Context(), &swarmv1.UpdateNodeRequest{Id: two.id, Spec: &swarmv1.NodeSpec{}, Hostname: "H1"})
		refused(t, "a hostname in use", err, errdefs.IsAlreadyExists, "node "+one.id+" has the name h1: choose another")
		if n, err := r.admin.UpdateNode(t.Context(), &swarmv1.UpdateNodeRequest{Id: two.id, Spec: &swarmv1.NodeSpec{}, Hostname: "H2"}); err != nil || n.GetNode().GetHostname() != "H2" {
			t.Errorf("its own name in another spelling: got %v, %v", n, err)
		}
	})
}

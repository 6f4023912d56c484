package manager_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

func (r *rig) network(name string, edit ...func(*swarmv1.NetworkSpec)) *swarmv1.Network {
	r.t.Helper()
	s := &swarmv1.NetworkSpec{Name: name}
	for _, e := range edit {
		e(s)
	}
	info, err := r.admin.CreateNetwork(r.t.Context(), &swarmv1.CreateNetworkRequest{Spec: s})
	if err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
	return info.GetNetwork()
}

// claims returns the claims of addresses and of other resources of networks, without cursors.
func (r *rig) claims() (out []string) {
	for c := range r.store.View().Claims.All() {
		if !strings.HasPrefix(c.GetKey(), "next/") {
			out = append(out, c.GetKey())
		}
	}
	return out
}

func attached(s *swarmv1.ServiceSpec, networks ...string) *swarmv1.ServiceSpec {
	s.TaskTemplate.Networks = nil
	for _, n := range networks {
		s.TaskTemplate.Networks = append(s.TaskTemplate.Networks, &swarmv1.NetworkAttachmentConfig{Target: n})
	}
	return s
}

func (r *rig) update(s *swarmv1.ServiceSpec) {
	r.t.Helper()
	if _, err := r.admin.UpdateService(r.t.Context(), &swarmv1.UpdateServiceRequest{Id: s.GetName(), Spec: s}); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

// The overlay objects that a task needs come before the task, and change with the tasks of other
// nodes.
func TestDispatch_TellsTheOverlay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		one, two := r.join("h1"), r.join("h2")
		r.network("web")
		r.create(attached(serviceSpec("api", 2), "web"))
		time.Sleep(time.Second)
		synctest.Wait()
		seen := map[string]bool{}
		ready := map[string]bool{}
		one.mu.Lock()
		defer one.mu.Unlock()
		for _, m := range one.messages {
			for _, c := range m.GetChanges() {
				switch o := c.GetPut().GetObject().(type) {
				case *swarmv1.Assignment_Peering:
					seen["peer "+o.Peering.GetNodeId()] = len(o.Peering.GetMeshAddresses()) == 2
				case *swarmv1.Assignment_Routing:
					seen["routing"] = len(o.Routing.GetEndpoint().GetVirtualIps()) == 1
				case *swarmv1.Assignment_Backend:
					ready[o.Backend.GetNodeId()] = o.Backend.GetReady()
					seen["backend "+o.Backend.GetTaskId()] = true
				case *swarmv1.Assignment_Network:
					seen["network "+o.Network.GetSpec().GetName()] = true
				case *swarmv1.Assignment_Task:
					for _, what := range []string{"peer " + one.id, "peer " + two.id, "routing", "backend " + o.Task.GetId(), "network web", "network ingress"} {
						if !seen[what] {
							t.Errorf("the task came before %s", what)
						}
					}
				}
			}
		}
		if !ready[one.id] || !ready[two.id] {
			t.Errorf("backends ready: %v, want one on both nodes", ready)
		}
	})
}

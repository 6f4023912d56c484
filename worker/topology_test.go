package worker_test

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
	"swarm/worker/simulated"
)

// heard records the topology changes that a worker passes on, one line each.
type heard struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (h *heard) listen(changes []*swarmv1.AssignmentChange) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range changes {
		switch c := c.Change.(type) {
		case *swarmv1.AssignmentChange_Remove:
			h.lines = append(h.lines, "- "+strings.ToLower(c.Remove.Kind.String())+" "+c.Remove.Id)
		case *swarmv1.AssignmentChange_Put:
			h.lines = append(h.lines, "+ "+c.Put.GetNetwork().GetId()+c.Put.GetPeering().GetNodeId()+c.Put.GetRouting().GetServiceId()+c.Put.GetBackend().GetTaskId())
		}
	}
}

func (h *heard) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	lines := h.lines
	h.lines = nil
	return lines
}

func TestWorker_TellsTopology(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		h := &heard{}
		r.edit = func(_ *worker.Config, d *worker.Deps) { d.OnTopology = h.listen }
		m := r.managers["m1"]
		topology := []*swarmv1.Assignment{
			{Object: &swarmv1.Assignment_Network{Network: &swarmv1.Network{Id: "net"}}},
			{Object: &swarmv1.Assignment_Peering{Peering: &swarmv1.Peering{NodeId: "n2"}}},
			{Object: &swarmv1.Assignment_Routing{Routing: &swarmv1.Routing{ServiceId: "web"}}},
			{Object: &swarmv1.Assignment_Backend{Backend: &swarmv1.Backend{TaskId: "t9", ServiceId: "web", NodeId: "n2"}}},
		}
		m.initial = append([]*swarmv1.Assignment{revisionObject()}, topology...)
		r.start()
		m.waitSession(1)
		m.assign(append(puts(taskObject("t1", running)), removal(swarmv1.AssignmentRef_BACKEND, "t9"))...)
		m.waitState("t1", running)
		want := []string{"+ net", "+ n2", "+ web", "+ t9", "- backend t9"}
		if diff := cmp.Diff(want, h.take()); diff != "" {
			t.Errorf("-want +got: %s", diff)
		}

		r.stop()
		r.peers = nil // No manager answers, so the worker keeps the peers that it knows.
		r.start()
		synctest.Wait()
		if got := h.take(); len(got) != 3 {
			t.Errorf("after a restart without managers: %v, want net, n2 and web", got)
		}
	})
}

func TestWorker_DrainsWhatIsServed(t *testing.T) {
	published := func(mode swarmv1.PortConfig_PublishMode) func(*swarmv1.ServiceSpec) {
		return func(s *swarmv1.ServiceSpec) {
			s.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: 8080, PublishMode: mode}}}
		}
	}
	for _, tt := range []struct {
		name    string
		edit    func(*swarmv1.ServiceSpec)
		desired swarmv1.TaskState
		drains  bool
	}{
		{"published on every node, replaced", published(swarmv1.PortConfig_INGRESS), shutdown, true},
		{"published on every node, service removed", published(swarmv1.PortConfig_INGRESS), remove, false},
		{"published on its node alone", published(swarmv1.PortConfig_HOST), shutdown, false},
		{"not reached by others", func(*swarmv1.ServiceSpec) {}, shutdown, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
				m := r.managers["m1"]
				m.initial = []*swarmv1.Assignment{revisionObject(tt.edit), taskObject("t1", running)}
				r.start()
				m.waitState("t1", running)
				began := time.Now()
				m.assign(puts(taskObject("t1", tt.desired))...)
				m.waitState("t1", shutdown)
				if drained := time.Since(began) > 0; drained != tt.drains {
					t.Errorf("stopped after %s, want a pause: %v", time.Since(began), tt.drains)
				}
			})
		})
	}
}

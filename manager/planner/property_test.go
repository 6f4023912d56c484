package planner

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"swarm/internal/ipam"
	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// chaos makes one random change to the cluster.
func (m *model) chaos(r *rand.Rand) {
	node := fmt.Sprintf("n%d", r.IntN(8))
	service := fmt.Sprintf("s%d", r.IntN(6))
	_, known := m.rows["1/"+node]
	switch r.IntN(17) {
	case 0, 1:
		if !known {
			m.addNode(node, func(n *swarmv1.Node, _ *swarmv1.NodeState) { n.Spec.Labels["zone"] = fmt.Sprint(r.IntN(3)) })
		}
	case 2:
		if known {
			m.setState(node, []swarmv1.NodeState_State{swarmv1.NodeState_DOWN, swarmv1.NodeState_READY, swarmv1.NodeState_READY, swarmv1.NodeState_DISCONNECTED}[r.IntN(4)])
		}
	case 3:
		if known {
			m.setNode(node, func(n *swarmv1.Node) { n.Spec.Availability = swarmv1.NodeSpec_Availability(r.IntN(3)) })
		}
	case 4:
		if known && r.IntN(3) == 0 {
			m.drop("1/" + node)
			m.drop("2/" + node)
			for _, key := range slices.Sorted(maps.Keys(m.rows)) {
				if strings.HasPrefix(key, "12/"+node+"/") {
					m.drop(key) // as collectGarbage of the manager does
				}
			}
		}
	case 5, 6:
		if m.service(service) == nil {
			m.addService(service, m.randomSpec(r)...)
		}
	case 7:
		if s := m.service(service); s != nil && !s.PendingDelete && m.rows[fmt.Sprintf("4/%s/%010d", service, s.Revision)].(*swarmv1.Revision).Spec.Mode.GetReplicated() != nil {
			m.edit(service, replicas(uint64(r.IntN(9))))
		}
	case 8:
		if s := m.service(service); s != nil && !s.PendingDelete {
			m.edit(service, image(fmt.Sprintf("docker.io/library/web:%d", r.IntN(100))), reserve(int64(r.IntN(4))*5e8, int64(r.IntN(3))<<30))
		}
	case 9:
		if s := m.service(service); s != nil && r.IntN(2) == 0 {
			s = s.CloneVT()
			s.PendingDelete = true
			m.put(s)
		}
	case 10:
		if list := m.tasks(); len(list) > 0 {
			t := list[r.IntN(len(list))]
			switch m.status(t.Id).State {
			case swarmv1.TaskState_RUNNING:
				m.report(t.Id, []swarmv1.TaskState{swarmv1.TaskState_FAILED, swarmv1.TaskState_COMPLETE}[r.IntN(2)])
			case swarmv1.TaskState_ASSIGNED, swarmv1.TaskState_READY:
				m.report(t.Id, swarmv1.TaskState_REJECTED)
			}
		}
	case 11:
		if s := m.service(service); s != nil && !s.PendingDelete {
			m.edit(service, []func(*swarmv1.ServiceSpec){on(), on("wide"), on("narrow"), on("wide", "narrow")}[r.IntN(4)])
		}
	case 12:
		if s := m.service(service); s != nil && !s.PendingDelete {
			m.edit(service, reserve(int64(r.IntN(4))*5e8, int64(r.IntN(3))<<30))
		}
	case 13:
		if list := m.tasks(); len(list) > 0 {
			if st := m.status(list[r.IntN(len(list))].Id); st.State == swarmv1.TaskState_RUNNING {
				m.refuse(st.TaskId)
			}
		}
	case 14:
		if s := m.service(service); s != nil && !s.PendingDelete {
			m.edit(service, updating(func(u *swarmv1.UpdateConfig) { u.Order = swarmv1.UpdateConfig_Order(r.IntN(2)) }))
		}
	case 15:
		if row, ok := m.rows["12/"+node+"/data"]; ok && r.IntN(2) == 0 && !m.busy(node) {
			m.drop("12/" + node + "/data")
			m.check() // The slots that have used it have no home any more.
		} else if ok {
			row := row.(*swarmv1.Volume).CloneVT()
			row.Reported = true
			m.put(row)
		} else if known && r.IntN(4) == 0 {
			m.put(&swarmv1.Volume{NodeId: node, Name: "data", Reported: true, Accepted: true})
		}
	case 16:
		m.now = m.now.Add(time.Duration(r.IntN(10_000)) * time.Millisecond)
	}
}

// busy says whether tasks may run on the node. While they do, nobody can remove their volumes.
func (m *model) busy(node string) bool {
	return slices.ContainsFunc(m.tasks(), func(t *swarmv1.Task) bool {
		st := m.status(t.Id).State
		return t.NodeId == node && st >= swarmv1.TaskState_ASSIGNED && st <= swarmv1.TaskState_RUNNING
	})
}

// addNetworks adds networks, one of which has few addresses.
func (m *model) addNetworks() {
	m.addNetwork("ingress", "10.0.0.0/24", "fd00::/64")
	m.addNetwork("wide", "10.0.1.0/24", "fd01::/64")
	m.addNetwork("narrow", "10.0.2.0/28")
}

func (m *model) randomSpec(r *rand.Rand) []func(*swarmv1.ServiceSpec) {
	edits := []func(*swarmv1.ServiceSpec){replicas(uint64(r.IntN(9))), reserve(int64(r.IntN(4))*5e8, int64(r.IntN(3))<<30)}
	options := []func(*swarmv1.ServiceSpec){
		global,
		constraint("node.labels.zone!=1"),
		hostPortOf(8080 + uint32(r.IntN(2))),
		func(s *swarmv1.ServiceSpec) { s.UpdateConfig.Order = swarmv1.UpdateConfig_START_FIRST },
		func(s *swarmv1.ServiceSpec) {
			s.UpdateConfig.Parallelism = uint64(r.IntN(4))
			s.UpdateConfig.FailureAction = swarmv1.UpdateConfig_FailureAction(r.IntN(3))
		},
		func(s *swarmv1.ServiceSpec) { placementOf(s).MaxReplicas = 1 + uint64(r.IntN(3)) },
		func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.RestartPolicy = &swarmv1.RestartPolicy{Condition: swarmv1.RestartPolicy_Condition(r.IntN(3)), MaxAttempts: uint64(r.IntN(3)), Window: durationpb.New(time.Duration(r.IntN(2)) * time.Minute)}
		},
		func(s *swarmv1.ServiceSpec) { s.Priority = int32(r.IntN(3)) },
		func(s *swarmv1.ServiceSpec) { s.SingleWriter = true },
		on("wide"),
		on("narrow", "wide"),
		mounting("data"),
		mounting("own-{{.Task.Slot}}"),
		func(s *swarmv1.ServiceSpec) {
			placementOf(s).Preferences = []*swarmv1.PlacementPreference{{Preference: &swarmv1.PlacementPreference_Spread{Spread: &swarmv1.SpreadOver{SpreadDescriptor: "node.labels.zone"}}}}
		},
	}
	for _, o := range options {
		if r.IntN(4) == 0 {
			edits = append(edits, o)
		}
	}
	return edits
}

// After every commit of a random run the invariants hold (model.check). When the changes stop, the
// cluster reaches the requested state and stays there.
func TestProperty_Converges(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 30
	}
	for seed := range uint64(rounds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			m := newModel(t)
			m.addNetworks()
			m.addNode("n0")
			m.rejects = func(*swarmv1.Task) bool { return r.IntN(8) == 0 }
			for range 80 {
				m.chaos(r)
				switch r.IntN(4) {
				case 0:
					m.plan()
				case 1:
					m.plan()
					m.work()
				}
			}
			m.rejects = never
			m.pass(10 * time.Minute)
			if m.plan()+m.work() != 0 {
				t.Fatalf("does not rest:\n%s", m)
			}
			m.checkConverged()
		})
	}
}

// checkConverged checks that all work is finished, except for work that cannot be finished.
func (m *model) checkConverged() {
	m.t.Helper()
	for k, row := range m.rows {
		if s, ok := row.(*swarmv1.Service); ok && s.PendingDelete {
			for _, t := range m.tasks() {
				if st, _ := m.rows["2/"+t.NodeId].(*swarmv1.NodeState); t.ServiceId == s.Id && st.GetState() != swarmv1.NodeState_DISCONNECTED {
					m.t.Fatalf("service %s is still being removed:\n%s", k, m)
				}
			}
		}
		if c, ok := row.(*swarmv1.Claim); ok && !strings.HasPrefix(c.Key, "next/") {
			m.checkOwner(c)
		}
	}
	if got, want := m.claims()["node"], 2*len(m.nodes()); got != want {
		m.t.Fatalf("%d addresses on network ingress, want %d:\n%s", got, want, m)
	}
	perSlot := map[string]int{}
	for _, t := range m.tasks() {
		st := m.status(t.Id)
		node, _ := m.rows["2/"+t.NodeId].(*swarmv1.NodeState)
		if t.DesiredState == swarmv1.TaskState_RUNNING && node.GetState() == swarmv1.NodeState_READY && st.State != swarmv1.TaskState_RUNNING && st.State != swarmv1.TaskState_PENDING {
			m.t.Fatalf("task %s should run and is %s:\n%s", t.Id, st.State, m)
		}
		if t.DesiredState > swarmv1.TaskState_RUNNING && node.GetState() == swarmv1.NodeState_READY && st.State <= swarmv1.TaskState_RUNNING {
			m.t.Fatalf("task %s should stop and is %s:\n%s", t.Id, st.State, m)
		}
		if st.State > swarmv1.TaskState_RUNNING {
			perSlot[fmt.Sprintf("%s.%d.%s", t.ServiceId, t.Slot, map[bool]string{true: t.NodeId}[t.Slot == 0])]++
		}
	}
	for s, n := range perSlot {
		if n > 6 {
			m.t.Fatalf("slot %s has a history of %d:\n%s", s, n, m)
		}
	}
}

// checkOwner tests that a claim belongs to a node, or to a task that has not ended.
func (m *model) checkOwner(c *swarmv1.Claim) {
	m.t.Helper()
	id := ipam.OwnerID(c.Owner)
	if st := m.status(id); m.rows["1/"+id] == nil && (m.rows["5/"+id] == nil || st.State > swarmv1.TaskState_RUNNING) {
		m.t.Fatalf("claim %s has no owner that lives:\n%s", c.Key, m)
	}
}

func (m *model) nodes() (out []string) {
	for k := range m.rows {
		if id, ok := strings.CutPrefix(k, "1/"); ok {
			out = append(out, id)
		}
	}
	return out
}

// The number of allocated addresses returns to its first value after services come and go, and a
// released address is the last to be used again.
func TestProperty_AddressesAreReleased(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	for seed := range uint64(rounds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 3))
			m := newModel(t)
			m.addNetworks()
			m.addNode("n0")
			m.addNode("n1")
			m.settle()
			start := m.claims()
			for i := range 20 {
				id := fmt.Sprintf("s%d", i)
				m.addService(id, replicas(uint64(1+r.IntN(20))), on("narrow", "wide"))
				m.settle()
				m.edit(id, replicas(uint64(r.IntN(20))))
				m.settle()
				m.edit(id, image("docker.io/library/web:2"))
				m.pass(time.Minute)
				if running, want := m.running(id), min(13, m.replicas(id)); running != want {
					t.Fatalf("%d of service %s run, want %d:\n%s", running, id, want, m)
				}
				s := m.service(id).CloneVT()
				s.PendingDelete = true
				m.put(s)
				m.settle()
				if got := m.claims(); !maps.Equal(got, start) {
					t.Fatalf("addresses in use after service %s: %v, want %v", id, got, start)
				}
			}
		})
	}
}

func (m *model) replicas(id string) int {
	rev := m.rows[fmt.Sprintf("4/%s/%010d", id, m.service(id).Revision)].(*swarmv1.Revision)
	return int(rev.Spec.Mode.GetReplicated().GetReplicas())
}

// The same rows give the same state and, to the byte, the same plan, in whatever order they arrive.
func TestProperty_OrderOfEventsDoesNotMatter(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			m := newModel(t)
			m.addNetworks()
			for range 60 {
				m.chaos(r)
				if r.IntN(3) > 0 {
					m.plan()
					m.work()
				}
			}
			var figures string
			var plan []byte
			for i := range 5 {
				keys := slices.Sorted(maps.Keys(m.rows))
				r.Shuffle(len(keys), func(a, b int) { keys[a], keys[b] = keys[b], keys[a] })
				var changes []table.RowChange
				for _, k := range keys {
					changes = append(changes, table.RowChange{New: m.rows[k]})
				}
				p := cluster.New(raftstoretest.View())
				p.Apply(changes)
				f, b := p.String(), m.planBytes(p)
				if i == 0 {
					figures, plan = f, b
					if kept := m.state.String(); kept != f {
						t.Fatalf("the state kept up to date differs from a new one:\n%s\nnew:\n%s", kept, f)
					}
					continue
				}
				if f != figures {
					t.Fatalf("another order, another state:\n%s\nwas\n%s", f, figures)
				}
				if !bytes.Equal(b, plan) {
					t.Fatalf("another order, another plan")
				}
			}
		})
	}
}

// planBytes plans all services from a state that has folded the rows of the model.
func (m *model) planBytes(p *cluster.State) []byte {
	m.t.Helper()
	var ids []string
	for _, row := range m.rows {
		switch o := row.(type) {
		case *swarmv1.Service:
			ids = append(ids, o.Id)
		case *swarmv1.Task:
			ids = append(ids, o.ServiceId)
		}
	}
	var out []byte
	for _, g := range New(p).Plan(ids, m.now).Groups {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(g.Proto())
		if err != nil {
			m.t.Fatal(err)
		}
		out = append(out, b...)
	}
	return out
}

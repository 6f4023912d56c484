package planner

import (
	"fmt"
	"testing"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

func addresses(m *model, service string) (out []string) {
	for _, t := range m.tasks() {
		if t.ServiceId == service && m.status(t.Id).State <= swarmv1.TaskState_RUNNING {
			for _, n := range t.Networks {
				out = append(out, n.Addresses...)
			}
		}
	}
	return out
}

func TestPlan_TasksGetAddressesInTheNetworksOrder(t *testing.T) {
	m := newModel(t)
	m.addNetwork("dual", "10.0.1.0/24", "fd01::/64")
	m.addNetwork("other", "10.0.2.0/24")
	m.addNode("n1")
	m.addService("web", replicas(2), func(s *swarmv1.ServiceSpec) {
		s.TaskTemplate.Networks = []*swarmv1.NetworkAttachmentConfig{
			{Target: "other", Aliases: []string{"w"}}, {Target: "bridge"}, {Target: "dual"},
		}
	})
	m.settle()
	got := m.tasks()[0].Networks
	if len(got) != 3 || got[0].NetworkId != "other" || got[0].Aliases[0] != "w" || got[0].Addresses[0] != "10.0.2.2/24" ||
		len(got[1].Addresses) != 0 || got[2].Addresses[0] != "10.0.1.2/24" || got[2].Addresses[1] != "fd01::2/64" {
		t.Errorf("networks of the first task: %v", got)
	}
	if got := m.tasks()[1].Networks[2].Addresses; got[0] != "10.0.1.3/24" || got[1] != "fd01::3/64" {
		t.Errorf("addresses of the second task: %v", got)
	}
}

func TestPlan_FullSubnetWaitsWithTheNumbers(t *testing.T) {
	m := newModel(t)
	m.addNetwork("web", "10.0.1.0/29")
	m.addNode("n1")
	m.addService("api", replicas(7), on("web"))
	m.settle()
	if got := m.running("api"); got != 5 {
		t.Errorf("%d run, want 5:\n%s", got, m)
	}
	waiting := 0
	for _, task := range m.tasks() {
		if st := m.status(task.Id); st.State == swarmv1.TaskState_PENDING {
			waiting++
			if want := "network web: no free address in 10.0.1.0/29: 5 of 5 in use"; st.Err != want {
				t.Errorf("task waits because %q, want %q", st.Err, want)
			}
			if len(task.Networks[0].Addresses) != 0 {
				t.Errorf("a waiting task shows addresses %v", task.Networks[0].Addresses)
			}
		}
	}
	if waiting != 2 {
		t.Errorf("%d wait, want 2", waiting)
	}
	m.edit("api", replicas(5))
	m.settle()
	if got := m.running("api"); got != 5 {
		t.Errorf("%d run after the scale-down, want 5:\n%s", got, m)
	}
	if got := m.claims()["task"]; got != 5 {
		t.Errorf("%d addresses are held, want 5", got)
	}
}

// A rolling update on a full subnet finishes if the old task stops first. If the new task starts
// first, one free address is enough.
func TestPlan_UpdateOnAFullSubnet(t *testing.T) {
	for name, test := range map[string]struct {
		replicas uint64
		order    swarmv1.UpdateConfig_Order
	}{
		"stop-first":  {5, swarmv1.UpdateConfig_STOP_FIRST},
		"start-first": {4, swarmv1.UpdateConfig_START_FIRST},
	} {
		t.Run(name, func(t *testing.T) {
			m := newModel(t)
			m.addNetwork("web", "10.0.1.0/29")
			m.addNode("n1")
			m.addService("api", replicas(test.replicas), on("web"), func(s *swarmv1.ServiceSpec) { s.UpdateConfig.Order = test.order; s.UpdateConfig.Parallelism = 2 })
			m.settle()
			m.edit("api", image("docker.io/library/web:2"))
			m.pass(5 * time.Minute)
			if got := m.service("api").GetUpdateStatus().GetState(); got != swarmv1.UpdateStatus_COMPLETED {
				t.Errorf("the update is %s:\n%s", got, m)
			}
			if got := m.running("api"); got != int(test.replicas) {
				t.Errorf("%d run, want %d:\n%s", got, test.replicas, m)
			}
		})
	}
}

func TestPlan_RequestedAddressIsOneTasks(t *testing.T) {
	m := newModel(t)
	m.addNetwork("web", "10.0.1.0/24")
	m.addNode("n1")
	asks := func(s *swarmv1.ServiceSpec) { s.TaskTemplate.Networks[0].Addresses = []string{"10.0.1.77"} }
	m.addService("a", on("web"), asks)
	m.settle()
	if got := addresses(m, "a"); len(got) != 1 || got[0] != "10.0.1.77/24" {
		t.Fatalf("the task has %v", got)
	}
	m.addService("b", on("web"), asks)
	m.settle()
	if got := m.running("b"); got != 0 {
		t.Fatalf("two tasks have the same address:\n%s", m)
	}
	m.edit("a", image("docker.io/library/web:2"))
	m.pass(time.Minute)
	if got := addresses(m, "a"); len(got) != 1 || got[0] != "10.0.1.77/24" {
		t.Errorf("after the update the task has %v:\n%s", got, m)
	}
	s := m.service("a").CloneVT()
	s.PendingDelete = true
	m.put(s)
	m.settle()
	if got := addresses(m, "b"); len(got) != 1 || got[0] != "10.0.1.77/24" {
		t.Errorf("once it is free, the other task has %v:\n%s", got, m)
	}
}

func TestPlan_NodesGetIngressAddresses(t *testing.T) {
	m := newModel(t)
	m.addNode("n1")
	m.addNode("n2")
	m.settle()
	m.addNetwork("ingress", "10.0.0.0/24", "fd00::/64")
	m.settle()
	for _, key := range []string{"10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"} {
		if c, _ := m.rows["9/addr/ingress/"+key].(*swarmv1.Claim); c == nil {
			t.Errorf("nobody has %s", key)
		}
	}
	m.drop("1/n1")
	m.drop("2/n1")
	m.settle()
	if got := m.claims()["node"]; got != 2 {
		t.Errorf("%d addresses are held after a node is gone, want 2", got)
	}
	m.addNode("n3")
	m.settle()
	if c, _ := m.rows["9/addr/ingress/10.0.0.4"].(*swarmv1.Claim); c.GetOwner() != "node/n3" {
		t.Errorf("the next address is %v's, want the new node's", c)
	}
}

// Anyone with a join token can create as many nodes as the ingress network has addresses. A node
// gets no address before a host opens a session for it.
func TestPlan_NodesThatNeverReportedGetNoIngressAddress(t *testing.T) {
	m := newModel(t)
	m.addNetwork("ingress", "10.0.0.0/29") // has addresses for five nodes
	joined := func(_ *swarmv1.Node, s *swarmv1.NodeState) { s.State, s.SessionEpoch = swarmv1.NodeState_DOWN, 0 }
	for i := range 20 {
		m.addNode(fmt.Sprintf("ghost%d", i), joined)
	}
	m.addNode("n1")
	m.settle()
	if got := m.claims()["node"]; got != 1 {
		t.Errorf("%d addresses of network ingress are held, want 1: nodes that never reported have none\n%s", got, m)
	}
	st := m.rows["2/ghost7"].(*swarmv1.NodeState).CloneVT()
	st.State, st.SessionEpoch = swarmv1.NodeState_READY, 1
	m.put(st)
	m.settle()
	if c, _ := m.rows["9/addr/ingress/10.0.0.3"].(*swarmv1.Claim); m.claims()["node"] != 2 || c.GetOwner() != "node/ghost7" {
		t.Errorf("after its first session a node has no address of its own: got %v\n%s", c, m)
	}
	// The node keeps its address while it is down, because a session was open once.
	st = m.rows["2/ghost7"].(*swarmv1.NodeState).CloneVT()
	st.State = swarmv1.NodeState_DOWN
	m.put(st)
	m.settle()
	if got := m.claims()["node"]; got != 2 {
		t.Errorf("%d addresses are held when a node that reported is down, want 2\n%s", got, m)
	}
}

package planner

import (
	"strings"
	"testing"
	"time"

	"swarm/internal/spec"
	"swarm/manager/planner/placement"
	swarmv1 "swarm/proto/swarm/v1"
)

// rejectAll rejects every assigned task, because no node can get its image.
func (m *model) rejectAll() int {
	n := 0
	for _, x := range m.tasks() {
		if st := m.status(x.Id); st.State == swarmv1.TaskState_ASSIGNED {
			st = st.CloneVT()
			st.State, st.Err = swarmv1.TaskState_REJECTED, "no registry and no node could give image web:1: load it with "+spec.LoadHint("web:1")
			m.put(st)
			n++
		}
	}
	return n
}

func TestPlan_ImageThatNobodyHasIsExplained(t *testing.T) {
	m := clusterOf(t, "a", "b", "c")
	m.addService("web", replicas(2))
	for range 10 {
		m.plan()
		m.rejectAll()
		m.now = m.now.Add(time.Second)
	}
	waiting := 0
	for _, x := range m.tasks() {
		st := m.status(x.Id)
		if st.State != swarmv1.TaskState_PENDING {
			continue
		}
		waiting++
		if want := "no suitable node (image not available on 3 nodes)"; st.Err != want {
			t.Errorf("err: got %q, want %q", st.Err, want)
		}
		if !strings.Contains(st.GetUnplaced().GetNearest(), "`docker save web:1 | swarm image load`") {
			t.Errorf("nearest: got %q, want the hint", st.GetUnplaced().GetNearest())
		}
	}
	if waiting != 2 {
		t.Fatalf("waiting: got %d, want 2\n%s", waiting, m)
	}
	m.now = m.now.Add(time.Second)
	m.put(&swarmv1.ImageCopy{Digest: "sha256:1", NodeId: "a"})
	m.pass(10 * time.Second)
	if got := m.running("web"); got != 2 {
		t.Errorf("running once the image is there: got %d, want 2\n%s", got, m)
	}
}

func TestPlan_ImageIsTriedAgain(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("web")
	m.plan()
	m.rejectAll()
	m.plan()
	if got := m.String(); !strings.Contains(got, "web.1 r1 on -: PENDING") {
		t.Fatalf("after a rejection:\n%s", got)
	}
	m.pass(placement.ImageRetry)
	if got := m.running("web"); got != 1 {
		t.Errorf("running after a while: got %d, want 1\n%s", got, m)
	}
}

// A node that could not get an image is tried again after a change of credentials or a forced
// update.
func TestPlan_ImageIsTriedAgainByAnotherLogin(t *testing.T) {
	for name, mend := range map[string]func(*swarmv1.ServiceSpec){
		"login": func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.ContainerSpec.PullOptions = &swarmv1.PullOptions{RegistryAuth: "right"}
		},
		"force": func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ForceUpdate++ },
	} {
		t.Run(name, func(t *testing.T) {
			m := clusterOf(t, "a")
			m.addService("web")
			m.plan()
			m.rejectAll()
			m.plan()
			m.edit("web", mend)
			m.pass(10 * time.Second)
			if got := m.running("web"); got != 1 {
				t.Errorf("running: got %d, want 1\n%s", got, m)
			}
		})
	}
}

package manager_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// vaulted returns a description that would draw tasks: another engine label, platform and resource
// than a worker of the rig joins with.
func vaulted(label string) *swarmv1.NodeDescription {
	return &swarmv1.NodeDescription{
		Platform: &swarmv1.Platform{Os: "plan9", Architecture: "amd64"},
		Engine:   &swarmv1.EngineDescription{Labels: map[string]string{"vault": label}},
		Resources: &swarmv1.Resources{
			NanoCpus: 4e9, MemoryBytes: 8 << 30, Generic: []*swarmv1.GenericResource{{Kind: "hsm", Value: 1}},
		},
	}
}

// A node whose root reports other engine labels, another platform or other generic resources than
// in its first session draws no task by them, in the same session or in a new one. Tasks come when
// an operator accepts the values, and only the values that the operator has seen.
func TestManager_ChangedFactsDrawNoTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		for name, constraint := range map[string]string{"label": "engine.labels.vault==yes", "platform": "node.platform.os==plan9"} {
			s := serviceSpec(name, 1)
			s.TaskTemplate.Placement = &swarmv1.Placement{Constraints: []string{constraint}}
			r.create(s)
		}
		s := serviceSpec("resource", 1)
		s.TaskTemplate.Resources = &swarmv1.ResourceRequirements{
			Reservations: &swarmv1.Resources{Generic: []*swarmv1.GenericResource{{Kind: "hsm", Value: 1}}},
		}
		r.create(s)
		draws := func(when string, w *worker, want int) {
			t.Helper()
			time.Sleep(time.Minute)
			if got := w.running(); got != want {
				t.Errorf("%s: got %d tasks, want %d", when, got, want)
			}
		}
		info := func() *swarmv1.NodeInfo {
			t.Helper()
			n, err := r.admin.GetNode(t.Context(), &swarmv1.GetRequest{Id: a.id})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		draws("as it joined", a, 0)
		a.describe(vaulted("yes"))
		draws("after another description", a, 0)
		if n := info().GetState(); n.GetPending().GetEngineLabels()["vault"] != "yes" || n.GetDescription().GetPlatform().GetOs() != "linux" {
			t.Errorf("state: got %v, want the new values pending and the old ones accepted", n)
		}
		a.cancel()
		a = r.greet(a.id, &swarmv1.Hello{MachineId: "host-a", Addr: "host-a", Port: 2377, Description: vaulted("yes")})
		draws("in a new session", a, 0)

		seen := info().GetState().GetPending()
		a.describe(vaulted("no"))
		time.Sleep(time.Minute)
		accept := func(f *swarmv1.NodeFacts) error {
			_, err := r.admin.AcceptNode(t.Context(), &swarmv1.AcceptNodeRequest{Id: a.id, Facts: f})
			return err
		}
		refused(t, "no facts", accept(nil), errdefs.IsInvalidArgument, "give the facts")
		refused(t, "facts that were swapped", accept(seen), errdefs.IsFailedPrecondition, "something else meanwhile")
		a.describe(vaulted("yes"))
		time.Sleep(time.Minute)
		if err := accept(seen); err != nil {
			t.Fatal(err)
		}
		draws("once accepted", a, 3)
		if n := info().GetState(); n.GetPending() != nil {
			t.Errorf("pending once accepted: got %v, want nothing", n.GetPending())
		}
		refused(t, "twice", accept(seen), errdefs.IsFailedPrecondition, "nothing is pending")
	})
}

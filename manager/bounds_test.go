package manager_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

func (w *worker) describe(d *swarmv1.NodeDescription) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Description{Description: d}})
}

// A node keeps the hostname with which it joined until an operator changes it. The hostname in its
// description changes neither lists nor placement.
func TestManager_HostnameIsTheOperators(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		s := serviceSpec("web", 1)
		s.TaskTemplate.Placement = &swarmv1.Placement{Constraints: []string{"node.hostname==vault"}}
		r.create(s)
		shown := func() string {
			info, err := r.admin.GetNode(t.Context(), &swarmv1.GetRequest{Id: a.id})
			if err != nil {
				t.Fatal(err)
			}
			return info.GetNode().GetHostname() + " " + info.GetState().GetDescription().GetHostname()
		}
		a.describe(&swarmv1.NodeDescription{Hostname: "vault", Platform: &swarmv1.Platform{Os: "plan9"}})
		time.Sleep(time.Minute)
		if got := shown(); got != "host-a host-a" || a.running() != 0 {
			t.Errorf("a node that reports the hostname vault is shown as %s, and has %d tasks; want host-a, and none", got, a.running())
		}
		_, err := r.admin.UpdateNode(t.Context(), &swarmv1.UpdateNodeRequest{Id: a.id, Spec: &swarmv1.NodeSpec{}, Hostname: "a\nb"})
		refused(t, "a hostname of two lines", err, errdefs.IsInvalidArgument, "not allowed")
		if _, err := r.admin.UpdateNode(t.Context(), &swarmv1.UpdateNodeRequest{Id: a.id, Spec: &swarmv1.NodeSpec{}, Hostname: "vault"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := shown(); got != "vault vault" || a.running() != 1 {
			t.Errorf("a node whose hostname the operator set to vault is shown as %s, and has %d tasks; want vault, and one", got, a.running())
		}
	})
}

// A session that breaks the protocol ends with the reason, and the node may open another one.
func TestManager_ClosesSessionsThatBreakTheProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.addNode("host-a")
		many := &swarmv1.StatusReport{Sequence: 1}
		for range 3000 {
			many.Updates = append(many.Updates, &swarmv1.TaskStatus{TaskId: "t"})
		}
		for reason, messages := range map[string][]*swarmv1.FromWorker{
			"before report 1 was acknowledged": {
				{Message: &swarmv1.FromWorker_Status{Status: &swarmv1.StatusReport{Sequence: 1}}},
				{Message: &swarmv1.FromWorker_Status{Status: &swarmv1.StatusReport{Sequence: 2}}},
			},
			"status report 7 came after 0": {{Message: &swarmv1.FromWorker_Status{Status: &swarmv1.StatusReport{Sequence: 7}}}},
			"one hello":                    {{Message: &swarmv1.FromWorker_Hello{Hello: &swarmv1.Hello{}}}},
			"assignments 99":               {{Message: &swarmv1.FromWorker_Programmed{Programmed: &swarmv1.Programmed{Sequence: 99}}}},
			"3000 statuses":                {{Message: &swarmv1.FromWorker_Status{Status: many}}},
		} {
			w := r.open(id, "host-a")
			synctest.Wait()
			for _, m := range messages {
				w.send(m)
			}
			if err := <-w.done; !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), reason) {
				t.Errorf("the session ended with %v, want %q", err, reason)
			}
		}
	})
}

// A node that opens one session after another must wait, because each session costs the leader a
// write.
func TestManager_SessionsOfANodeArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.addNode("host-a")
		refusals := 0
		for range 40 {
			w := r.open(id, "host-a")
			synctest.Wait()
			select {
			case err := <-w.done:
				if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "too often") {
					t.Errorf("the session ended with %v", err)
				}
				refusals++
			default:
			}
		}
		st, _ := r.store.View().NodeStates.Get(id)
		if refusals == 0 || st.GetSessionEpoch() > 25 {
			t.Errorf("%d sessions of 40 are refused, and %d begun", refusals, st.GetSessionEpoch())
		}
		time.Sleep(5 * time.Second)
		r.open(id, "host-a")
		synctest.Wait()
		if now, _ := r.store.View().NodeStates.Get(id); now.GetSessionEpoch() <= st.GetSessionEpoch() {
			t.Error("the node cannot open a session after the pause")
		}
	})
}

// A removed node that opens sessions without end is delayed too, before the manager does anything
// expensive for it.
func TestManager_SessionsOfARemovedNodeArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		told, paced := 0, 0
		id := ident.NewID()
		for range 40 {
			w := r.open(id, "host-a")
			synctest.Wait()
			switch err := <-w.done; {
			case errdefs.IsPermissionDenied(err):
				told++
			case errdefs.IsResourceExhausted(err):
				paced++
			default:
				t.Errorf("the session ended with %v", err)
			}
		}
		if told == 0 {
			t.Errorf("%d calls are told that the node was removed, %d that they must wait", told, paced)
		}
	})
}

package manager_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// wait follows a service until WaitService returns a verdict. It returns the verdict, the number of
// messages, and the time.
func (r *rig) wait(req *swarmv1.WaitServiceRequest) (*swarmv1.ServiceVerdict, int, time.Duration, error) {
	r.t.Helper()
	began := time.Now()
	stream, err := r.admin.WaitService(r.t.Context(), req)
	for n := 1; err == nil; n++ {
		var m *swarmv1.WaitServiceResponse
		if m, err = stream.Recv(); err == nil && m.GetVerdict() != nil {
			return m.GetVerdict(), n, time.Since(began), nil
		}
	}
	return nil, 0, time.Since(began), err
}

func TestWaitService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		node := r.join("h1")
		svc, err := r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: serviceSpec("web", 2)})
		if err != nil {
			t.Fatal(err)
		}
		v, messages, took, err := r.wait(&swarmv1.WaitServiceRequest{Id: svc.GetId(), Index: svc.GetIndex()})
		if err != nil || !v.GetConverged() || took < 5*time.Second || took > 6*time.Second || messages > 20 {
			t.Errorf("create: got %v, %v after %s and %d messages, want converged after the monitor time, 5 s", v, err, took, messages)
		}
		// The tasks have run long enough to be stable, so the verdict waits only for the planner.
		if v, _, took, err := r.wait(&swarmv1.WaitServiceRequest{Id: "web"}); err != nil || !v.GetConverged() || took > 2*time.Second {
			t.Errorf("as it is: got %v, %v after %s", v, err, took)
		}
		// The node no longer acts, so the service gets no task, and the call waits until the
		// service is removed.
		node.delay()
		scaled := r.service("web").GetRevision().GetSpec().CloneVT()
		scaled.GetMode().GetReplicated().Replicas = 3
		up, err := r.admin.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Version: r.service("web").GetService().GetMeta().GetVersion(), Spec: scaled})
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Minute, func() {
			if _, err := r.admin.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "web"}); err != nil {
				t.Error(err)
			}
		})
		v, _, took, err = r.wait(&swarmv1.WaitServiceRequest{Id: "web", Index: up.GetIndex(), Revision: up.GetRevision()})
		if err != nil || v.GetReason() != "service web is being removed" || took < time.Minute || took > 2*time.Minute {
			t.Errorf("removed meanwhile: got %v, %v after %s", v, err, took)
		}
		if _, _, _, err := r.wait(&swarmv1.WaitServiceRequest{Id: "nothing"}); !errdefs.IsNotFound(err) {
			t.Errorf("no such service: got %v", err)
		}
		synctest.Wait() // The call of RemoveService returns.
		node.speak()
	})
}

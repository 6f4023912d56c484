package manager_test

import (
	"strings"
	"testing"
	"testing/synctest"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// A service that is rolled back gets its former port again as soon as no other service has it.
// Until then its status says why not.
func TestAlign_FormerPortIsRegained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		port := func(number uint32) *swarmv1.PortConfig {
			return &swarmv1.PortConfig{TargetPort: 80, PublishedPort: number}
		}
		r.create(publishing("web", port(8080)))
		r.update(publishing("web", port(8081)))
		r.create(publishing("other", port(8080)))
		back := r.service("web").GetService().CloneVT()
		back.Revision, back.PreviousRevision = back.GetPreviousRevision(), 0
		r.commit(raftstore.Update(back))
		synctest.Wait()

		if e := r.service("web").GetEndpoint(); !strings.Contains(e.GetUnmet(), "port 8080/tcp is already published by service other") || e.GetPorts()[0].GetPublishedPort() != 8081 {
			t.Errorf("endpoint while another service has the port: got %v", e)
		}
		r.create(publishing("third", port(8082)))
		if _, err := r.admin.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "third"}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.admin.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "other"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if e := r.service("web").GetEndpoint(); e.GetUnmet() != "" || e.GetPorts()[0].GetPublishedPort() != 8080 {
			t.Errorf("endpoint when the other service is gone: got %v, want port 8080", e)
		}
		r.wantPorts("the other service is gone", "8080 web")
	})
}

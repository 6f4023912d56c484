package service_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// A service that the planner rolls back gets its former port as soon as no other service has it.
// Until then its endpoint says why not.
func TestAlign_FormerPortIsRegained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPortRig(t)
		r.Lead()
		port := func(number uint32) *swarmv1.PortConfig {
			return &swarmv1.PortConfig{TargetPort: 80, PublishedPort: number}
		}
		r.CreateService(publishing("web", port(8080)))
		r.UpdateService(publishing("web", port(8081)))
		other := r.CreateService(publishing("other", port(8080)))
		back := r.Service("web").GetService().CloneVT()
		back.Revision, back.PreviousRevision = back.GetPreviousRevision(), 0
		r.Commit(table.Update(back))
		synctest.Wait()

		if e := r.Service("web").GetEndpoint(); !strings.Contains(e.GetUnmet(), "port 8080/tcp is already published by service other") || e.GetPorts()[0].GetPublishedPort() != 8081 {
			t.Errorf("endpoint while another service has the port: got %v", e)
		}
		third := r.CreateService(publishing("third", port(8082)))
		if _, err := r.Control.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "third"}); err != nil {
			t.Fatal(err)
		}
		r.FinishRemoval(third)
		synctest.Wait()
		if _, err := r.Control.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "other"}); err != nil {
			t.Fatal(err)
		}
		r.FinishRemoval(other)
		synctest.Wait()
		if e := r.Service("web").GetEndpoint(); e.GetUnmet() != "" || e.GetPorts()[0].GetPublishedPort() != 8080 {
			t.Errorf("endpoint when the other service is gone: got %v, want port 8080", e)
		}
		r.wantPorts("the other service is gone", "8080 web")
	})
}

// A service that is being removed and holds the port does not delay the other services.
func TestAlign_DoesNotWaitForARemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPortRig(t)
		port := func(number uint32) *swarmv1.PortConfig {
			return &swarmv1.PortConfig{TargetPort: 80, PublishedPort: number}
		}
		rollBack := func(name string) *swarmv1.Change {
			row := r.Service(name).GetService().CloneVT()
			row.Revision, row.PreviousRevision = row.GetPreviousRevision(), 0
			return table.Update(row)
		}
		r.CreateService(publishing("web", port(8080)))
		r.UpdateService(publishing("web", port(8081)))
		r.CreateService(publishing("api", port(9090)))
		r.UpdateService(publishing("api", port(9091)))
		other := r.CreateService(publishing("other", port(8080)))
		r.RemoveService("other")
		r.Commit(rollBack("web"), rollBack("api"))
		began := time.Now()
		r.Lead()
		if e := r.Service("api").GetEndpoint(); time.Since(began) > 0 || e.GetPorts()[0].GetPublishedPort() != 9090 {
			t.Errorf("endpoint of api after %s: got %v, want port 9090 at once", time.Since(began), e)
		}
		if e := r.Service("web").GetEndpoint(); !strings.Contains(e.GetUnmet(), "port 8080/tcp is published by service other, which is still being removed") {
			t.Errorf("endpoint of web while other is being removed: got %v", e)
		}
		r.FinishRemoval(other)
		synctest.Wait()
		if e := r.Service("web").GetEndpoint(); e.GetUnmet() != "" || e.GetPorts()[0].GetPublishedPort() != 8080 {
			t.Errorf("endpoint of web after the removal: got %v, want port 8080", e)
		}
	})
}

// The planner changes only the row of the service when an update fails.
func TestAlign_RolledBackServicePublishesItsFormerPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		r.Lead()
		publishing := func(port uint32) *swarmv1.ServiceSpec {
			s := controltest.ServiceSpec("web", 1)
			s.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: port}}}
			return s
		}
		r.CreateService(publishing(8080))
		if _, err := r.Control.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Spec: publishing(9090)}); err != nil {
			t.Fatal(err)
		}
		svc := r.Service("web").GetService()
		row := svc.CloneVT()
		row.Revision, row.PreviousRevision = 1, 0
		if _, err := r.Store.Commit(t.Context(), "planner", table.Put(row)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		v := r.Store.View()
		endpoint, _ := v.Endpoints.Get(svc.GetId())
		if got := endpoint.GetPorts(); len(got) != 1 || got[0].GetPublishedPort() != 8080 {
			t.Errorf("ports %v, want 8080", got)
		}
		for key, want := range map[string]bool{"port/ingress/tcp/8080": true, "port/ingress/tcp/9090": false} {
			if _, ok := v.Claims.Get(key); ok != want {
				t.Errorf("claim %s is there: %v, want %v", key, ok, want)
			}
		}
	})
}

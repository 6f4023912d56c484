package data_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// rig is the API with calls for secrets.
type rig struct{ *controltest.Rig }

func (r rig) create(name, data string) *swarmv1.DataInfo {
	r.T.Helper()
	info, err := r.Control.CreateSecret(r.T.Context(), &swarmv1.CreateDataRequest{Spec: &swarmv1.DataSpec{Name: name}, Data: []byte(data)})
	if err != nil {
		r.T.Fatal(err)
	}
	return info
}

func (r rig) update(req *swarmv1.UpdateDataRequest) *swarmv1.DataInfo {
	r.T.Helper()
	info, err := r.Control.UpdateSecret(r.T.Context(), req)
	if err != nil {
		r.T.Fatal(err)
	}
	return info
}

func (r rig) history(ref string) []*swarmv1.DataVersionInfo {
	r.T.Helper()
	versions, err := r.Control.ListSecretVersions(r.T.Context(), &swarmv1.GetRequest{Id: ref})
	if err != nil {
		r.T.Fatal(err)
	}
	return versions.GetVersions()
}

// using returns a service that sees a secret.
func using(name string, refs ...*swarmv1.DataReference) *swarmv1.ServiceSpec {
	s := controltest.ServiceSpec(name, 1)
	s.TaskTemplate.ContainerSpec.Secrets = refs
	return s
}

// bound returns the version of the first secret of a service, and the number of its revision.
func (r rig) bound(service string) (version, revision uint64) {
	rev := r.Service(service).GetRevision()
	return rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetSecrets()[0].GetNumber(), rev.GetNumber()
}

// rows returns the keys of the guards and versions that are left.
func (r rig) rows() (left []string) {
	for _, key := range r.Claims() {
		if strings.HasPrefix(key, "data/") {
			left = append(left, key)
		}
	}
	for v := range r.Store.View().DataVersions.All() {
		left = append(left, table.Key(v))
	}
	return left
}

func test(t *testing.T, fn func(t *testing.T, r rig)) {
	synctest.Test(t, func(t *testing.T) { fn(t, rig{controltest.New(t)}) })
}

func TestSecret_HasVersions(t *testing.T) {
	test(t, func(t *testing.T, r rig) {
		first := r.create("db", "one")
		if first.GetStatus().GetNumber() != 1 || first.GetData() != nil {
			t.Errorf("created: %v", first)
		}
		if _, err := r.Control.CreateSecret(t.Context(), &swarmv1.CreateDataRequest{Spec: &swarmv1.DataSpec{Name: "db"}, Data: []byte("x")}); !errdefs.IsAlreadyExists(err) {
			t.Errorf("a second secret of the name: %v", err)
		}
		if got := r.update(&swarmv1.UpdateDataRequest{Id: "db", Data: []byte("two")}); got.GetStatus().GetNumber() != 2 || got.GetStatus().GetRollout() != nil {
			t.Errorf("new data: %v", got)
		}
		if got := r.update(&swarmv1.UpdateDataRequest{Id: "db", Data: []byte("two")}); got.GetStatus().GetNumber() != 2 {
			t.Errorf("the same data: %v", got)
		}
		if got := r.update(&swarmv1.UpdateDataRequest{Id: "db", Number: 1}); got.GetStatus().GetNumber() != 1 {
			t.Errorf("back: %v", got)
		}
		if got := r.update(&swarmv1.UpdateDataRequest{Id: "db", Data: []byte("three")}); got.GetStatus().GetNumber() != 3 {
			t.Errorf("a number was given twice: %v", got)
		}
		got := r.update(&swarmv1.UpdateDataRequest{Id: "db", Spec: &swarmv1.DataSpec{Labels: map[string]string{"a": "b"}}})
		if got.GetSpec().GetLabels()["a"] != "b" || got.GetSpec().GetName() != "db" || got.GetStatus().GetNumber() != 3 {
			t.Errorf("labels: %v", got)
		}
		versions := r.history("db")
		if len(versions) != 3 || !versions[2].GetCurrent() || versions[0].GetSize() != 3 || versions[0].GetActor() == "" {
			t.Errorf("history: %v", versions)
		}
		for _, c := range []struct {
			req  *swarmv1.UpdateDataRequest
			says string
		}{
			{&swarmv1.UpdateDataRequest{Id: "db", Number: 9}, "secret db has no version 9: see `swarm secret history db`"},
			{&swarmv1.UpdateDataRequest{Id: "db", Number: 1, Data: []byte("x")}, "exclude each other"},
			{&swarmv1.UpdateDataRequest{Id: "db", Version: 1, Data: []byte("x")}, "changed meanwhile"},
			{&swarmv1.UpdateDataRequest{Id: "none", Data: []byte("x")}, "secret none not found"},
			{&swarmv1.UpdateDataRequest{Id: "db", Data: make([]byte, 600<<10)}, "at most 512000 are allowed"},
		} {
			if _, err := r.Control.UpdateSecret(t.Context(), c.req); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		}
		if _, err := r.Control.RemoveSecret(t.Context(), &swarmv1.GetRequest{Id: "db"}); err != nil || len(r.rows()) > 0 {
			t.Errorf("removed: %v, left %v", err, r.rows())
		}
	})
}

func TestConfig_ShowsItsData(t *testing.T) {
	test(t, func(t *testing.T, r rig) {
		spec := &swarmv1.DataSpec{Name: "app.conf", Templating: &swarmv1.Driver{Name: "golang"}}
		if _, err := r.Control.CreateConfig(t.Context(), &swarmv1.CreateDataRequest{Spec: spec, Data: []byte("{{.Nope")}); err == nil || !strings.Contains(err.Error(), "is not a valid template: line 1") {
			t.Errorf("a broken template: %v", err)
		}
		if _, err := r.Control.CreateConfig(t.Context(), &swarmv1.CreateDataRequest{Spec: spec, Data: []byte("{{.Task.Slot}}")}); err != nil {
			t.Fatal(err)
		}
		if got, err := r.Control.GetConfig(t.Context(), &swarmv1.GetRequest{Id: "app.conf"}); err != nil || string(got.GetData()) != "{{.Task.Slot}}" {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestSecret_InUseIsNotRemoved(t *testing.T) {
	test(t, func(t *testing.T, r rig) {
		r.create("db", "one")
		id := r.CreateService(using("web", &swarmv1.DataReference{Name: "db"}))
		_, err := r.Control.RemoveSecret(t.Context(), &swarmv1.GetRequest{Id: "db"})
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "remove secret db: it is in use by service web: remove what uses it, or take it away with `swarm service update --secret-rm db web`") {
			t.Errorf("in use: %v", err)
		}
		if v := r.history("db"); !slices.Equal(v[0].GetServices(), []string{"web"}) {
			t.Errorf("history: %v", v)
		}
		r.UpdateService(controltest.ServiceSpec("web", 1))
		node := r.AddNode("h1")
		task := r.AddTask(id, node, 1)
		row, _ := r.Store.View().Tasks.Get(task)
		row = row.CloneVT()
		row.Revision = 1
		r.Commit(table.Update(row))
		if _, err := r.Control.RemoveSecret(t.Context(), &swarmv1.GetRequest{Id: "db"}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("a task still has it: %v", err)
		}
		r.Commit(table.DeleteKey(table.Task, task), table.DeleteKey(table.TaskStatus, task))
		if _, err := r.Control.RemoveSecret(t.Context(), &swarmv1.GetRequest{Id: "db"}); err != nil {
			t.Errorf("not in use: %v", err)
		}
		_, err = r.Control.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Rollback: true})
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "secret db not found: create it with") {
			t.Errorf("a rollback to a secret that is gone: %v", err)
		}
	})
}

func TestService_RefersToAVersion(t *testing.T) {
	test(t, func(t *testing.T, r rig) {
		r.create("db", "one")
		r.update(&swarmv1.UpdateDataRequest{Id: "db", Data: []byte("two")})
		r.CreateService(using("follows", &swarmv1.DataReference{Name: "db"}))
		r.CreateService(using("pinned", &swarmv1.DataReference{Name: "db", Number: 1, Pinned: true}))
		for service, want := range map[string]uint64{"follows": 2, "pinned": 1} {
			if got, _ := r.bound(service); got != want {
				t.Errorf("%s has version %d, want %d", service, got, want)
			}
		}
		for says, ref := range map[string]*swarmv1.DataReference{
			"secret db has no version 7": {Name: "db", Number: 7, Pinned: true},
			"secret none not found":      {Name: "none"},
			"secret x not found: create": {Name: "x", Id: "y"},
			"is pinned to a version":     {Name: "db", Number: 1, Pinned: true, OnUpdate: &swarmv1.OnUpdate{}},
		} {
			if _, err := r.Control.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: using("bad", ref)}); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("got %v, want %q", err, says)
			}
		}
	})
}

// The services that follow get the version one after another, and those that are pinned keep
// theirs. The rollout stops at a service that fails, until the secret has another current version.
func TestRollOut_OneServiceAfterAnother(t *testing.T) {
	test(t, func(t *testing.T, r rig) {
		r.Lead()
		node := r.AddNode("h1")
		r.create("db", "one")
		ids := map[string]string{}
		for _, name := range []string{"a", "b", "c"} {
			ids[name] = r.CreateService(using(name, &swarmv1.DataReference{Name: "db"}))
		}
		r.CreateService(using("pinned", &swarmv1.DataReference{Name: "db", Number: 1, Pinned: true}))
		want := func(when, state string, versions map[string]uint64) {
			t.Helper()
			time.Sleep(time.Minute)
			for service, want := range versions {
				if got, _ := r.bound(service); got != want {
					t.Errorf("%s: %s has version %d, want %d", when, service, got, want)
				}
			}
			info, err := r.Control.GetSecret(t.Context(), &swarmv1.GetRequest{Id: "db"})
			if got := info.GetStatus().GetRollout(); err != nil || got.GetState().String() != state {
				t.Errorf("%s: got %v, %v, want %s", when, got, err, state)
			}
		}
		r.update(&swarmv1.UpdateDataRequest{Id: "db", Data: []byte("two")})
		want("no task runs", "ROLLING", map[string]uint64{"a": 2, "b": 1, "c": 1, "pinned": 1})
		task := r.AddTask(ids["a"], node, 1)
		want("a runs", "ROLLING", map[string]uint64{"a": 2, "b": 2, "c": 1})
		paused := r.Service("b").GetService().CloneVT()
		paused.UpdateStatus = &swarmv1.UpdateStatus{State: swarmv1.UpdateStatus_PAUSED, StartedVersion: paused.GetMeta().GetVersion(), Message: "update paused"}
		r.Commit(table.Update(paused))
		want("b is paused", "STOPPED", map[string]uint64{"a": 2, "b": 2, "c": 1})
		r.update(&swarmv1.UpdateDataRequest{Id: "db", Number: 1})
		synctest.Wait()
		r.Commit(table.DeleteKey(table.Task, task), table.DeleteKey(table.TaskStatus, task))
		r.AddTask(ids["a"], node, 1)
		want("back", "ROLLING", map[string]uint64{"a": 1, "b": 1, "c": 1})
		r.AddTask(ids["b"], node, 1)
		want("back on all", "DONE", map[string]uint64{"a": 1, "b": 1, "c": 1, "pinned": 1})
	})
}

// An overlap of two versions ends after its time.
func TestRollOut_KeepsThePreviousVersionForATime(t *testing.T) {
	test(t, func(t *testing.T, r rig) {
		r.Lead()
		r.create("db", "one")
		on := &swarmv1.OnUpdate{Action: swarmv1.OnUpdate_NONE}
		s := using("web", &swarmv1.DataReference{Name: "db", OnUpdate: on, KeepPrevious: durationpb.New(time.Hour)})
		s.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Replicated{Replicated: &swarmv1.ReplicatedService{}}}
		r.CreateService(s)
		template := r.Service("web").GetRevision().GetTemplate()
		r.update(&swarmv1.UpdateDataRequest{Id: "db", Data: []byte("two")})
		time.Sleep(time.Minute)
		ref := func() *swarmv1.DataReference {
			return r.Service("web").GetRevision().GetSpec().GetTaskTemplate().GetContainerSpec().GetSecrets()[0]
		}
		if got := ref(); got.GetNumber() != 2 || got.GetPrevious() != 1 {
			t.Errorf("after a minute: %v, want versions 2 and 1", got)
		}
		time.Sleep(time.Hour)
		if got := ref(); got.GetNumber() != 2 || got.GetPrevious() != 0 {
			t.Errorf("after an hour: %v, want version 2 alone", got)
		}
		if got := r.Service("web").GetRevision().GetTemplate(); got != template {
			t.Errorf("template %d became %d: the tasks would be replaced", template, got)
		}
	})
}

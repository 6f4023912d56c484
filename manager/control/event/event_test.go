package event_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/eventplace"
	"swarm/internal/transport"
	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// open begins a watch, and waits until it is in place.
func open(r *controltest.Rig, req *swarmv1.WatchRequest) (w swarmv1.Control_WatchClient, index uint64, incomplete bool) {
	r.T.Helper()
	w, err := r.Control.Watch(r.T.Context(), req)
	if err != nil {
		r.T.Fatal(err)
	}
	h, err := w.Header()
	if err != nil {
		r.T.Fatal(err)
	}
	index, _, incomplete = eventplace.Parse(h)
	return w, index, incomplete
}

// refusal returns the error of a watch that does not begin.
func refusal(r *controltest.Rig, req *swarmv1.WatchRequest) error {
	w, err := r.Control.Watch(r.T.Context(), req)
	if err == nil {
		_, err = w.Recv()
	}
	return transport.FromStatus(err)
}

// word is an event as one word.
func word(e *swarmv1.Event) string {
	return fmt.Sprintf("%s:%s:%s", e.GetType(), strings.ToLower(e.GetAction().String()), e.GetAttributes()["name"])
}

// rest returns the words of all events until the stream ends.
func rest(t *testing.T, w swarmv1.Control_WatchClient) (out []string) {
	t.Helper()
	for {
		e, err := w.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, word(e))
	}
}

// scene writes a history: two nodes, of which one fails, and services whose tasks run and end.
func scene(r *controltest.Rig) {
	node := r.AddNode("host1")
	state, _ := r.Store.View().NodeStates.Get(node)
	down := state.CloneVT()
	down.State = swarmv1.NodeState_DOWN
	r.Commit(table.Put(down))
	for _, name := range []string{"web", "db"} {
		r.Commit(
			table.Create(&swarmv1.Service{Id: name + "-id", Name: name, Revision: 1}),
			table.Create(&swarmv1.Revision{ServiceId: name + "-id", Number: 1, Spec: &swarmv1.ServiceSpec{TaskTemplate: &swarmv1.TaskSpec{
				ContainerSpec: &swarmv1.ContainerSpec{Image: "docker.io/library/" + name + ":1", Labels: map[string]string{"tier": name}},
			}}}),
		)
		id := r.AddTask(name+"-id", node, 1)
		st := r.Store.View().Status(id).CloneVT()
		st.State, st.ContainerStatus = swarmv1.TaskState_FAILED, &swarmv1.ContainerStatus{ExitCode: 3}
		r.Commit(table.Put(st))
	}
}

func TestWatch_Filters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		time.Sleep(time.Second)
		since := timestamppb.Now()
		scene(r)
		const web = "service:create:web task:create:web.1 task:start:web.1 task:die:web.1"
		const db = "service:create:db task:create:db.1 task:start:db.1 task:die:db.1"
		const node = "node:create:host1 node:update:host1 node:update:host1"
		for filters, want := range map[string]string{
			"":                           node + " " + web + " " + db,
			"type=node":                  node,
			"type=node node=host1":       node,
			"type=container event=die":   "task:die:web.1 task:die:db.1",
			"type=service type=revision": "service:create:web revision:create: service:create:db revision:create:",
			"service=web":                web,
			"service=web-i":              web,
			"service=web service=db":     web + " " + db,
			"service=nosuch":             "",
			"container=db.1":             "task:create:db.1 task:start:db.1 task:die:db.1",
			"label=tier=web action=die":  "task:die:web.1",
			"image=web":                  "task:create:web.1 task:start:web.1 task:die:web.1",
			"image=web:1 event=die":      "task:die:web.1",
			"image=web:2":                "",
			"name=web type=service":      "service:create:web",
			"scope=swarm type=node":      node,
			"scope=local":                "",
			"network=app":                "",
		} {
			w, _, incomplete := open(r, &swarmv1.WatchRequest{Filters: strings.Fields(filters), Since: since, Until: timestamppb.Now()})
			if got := strings.Join(rest(t, w), " "); got != want || incomplete {
				t.Errorf("%s:\ngot  %s\nwant %s\nincomplete %t", filters, got, want, incomplete)
			}
		}
		for filter, want := range map[string]string{
			"nosuch=x": "unknown filter", "type=claim": "unknown type", "event=exploded": "unknown event", "scope=moon": "unknown scope", "x": "unknown filter",
		} {
			if err := refusal(r, &swarmv1.WatchRequest{Filters: []string{filter}}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", filter, err, want)
			}
		}
	})
}

// An event says what has changed, in Docker's words.
func TestWatch_Attributes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		w, _, _ := open(r, &swarmv1.WatchRequest{})
		scene(r)
		found := 0
		for found < 2 {
			e, err := w.Recv()
			if err != nil {
				t.Fatal(err)
			}
			a := e.GetAttributes()
			switch word(e) {
			case "node:update:host1":
				if a["state.old"] == "ready" && a["state.new"] == "down" {
					found++
				}
			case "task:die:web.1":
				if a["exitCode"] != "3" || a["state.new"] != "failed" || a["image"] != "docker.io/library/web:1" {
					t.Errorf("got %v", a)
				}
				found++
			}
		}
	})
}

// Events keep the names of objects that were removed before the client looked, and so do filters.
func TestWatch_RemovedObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		time.Sleep(time.Second)
		since := timestamppb.Now()
		scene(r)
		v := r.Store.View()
		var changes []*swarmv1.Change
		for task := range v.TasksOfService("web-id") {
			changes = append(changes, table.DeleteKey(table.TaskStatus, task.GetId()), table.DeleteKey(table.Task, task.GetId()))
		}
		rev, _ := v.Revision("web-id", 1)
		web, _ := v.Services.Get("web-id")
		changes = append(changes, table.DeleteKey(table.Revision, table.Key(rev)), table.Delete(web))
		r.Commit(changes...)
		const tasks = "task:create:web.1 task:start:web.1 task:die:web.1 task:remove:web.1"
		for filters, want := range map[string]string{
			"service=web":              "service:create:web " + tasks + " service:remove:web",
			"type=task service=web":    tasks,
			"type=task label=tier=web": tasks,
			"type=task image=web":      tasks,
		} {
			w, _, _ := open(r, &swarmv1.WatchRequest{Filters: strings.Fields(filters), Since: since, Until: timestamppb.Now()})
			if got := strings.Join(rest(t, w), " "); got != want {
				t.Errorf("%s:\ngot  %s\nwant %s", filters, got, want)
			}
		}
	})
}

// A client that continues after any event gets exactly the events that follow, also if one entry of
// the log has several.
func TestWatch_ContinuesAfterEachEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		filters := []string{"type=task", "type=service", "type=revision"}
		w, begin, _ := open(r, &swarmv1.WatchRequest{Filters: filters})
		scene(r)
		until := timestamppb.Now()
		type place struct {
			index uint64
			part  uint32
		}
		places, words := []place{{begin, 0}}, []string{}
		for range 10 {
			e, err := w.Recv()
			if err != nil {
				t.Fatal(err)
			}
			places, words = append(places, place{e.GetIndex(), e.GetPart()}), append(words, word(e))
		}
		time.Sleep(time.Second)
		shared := false
		for i, p := range places {
			again, _, _ := open(r, &swarmv1.WatchRequest{Filters: filters, Index: p.index, Part: p.part, Until: until})
			if got := rest(t, again); !slices.Equal(got, words[i:]) {
				t.Errorf("after event %d:\ngot  %v\nwant %v", i, got, words[i:])
			}
			shared = shared || i > 0 && p.index == places[i-1].index
		}
		if !shared {
			t.Error("no two events have the same index: the test is too weak")
		}
		for _, req := range []*swarmv1.WatchRequest{{Index: 1 << 40}, {Index: begin, Since: until}} {
			if err := refusal(r, req); !errdefs.IsOutOfRange(err) && !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v: got %v, want a refusal", req, err)
			}
		}
	})
}

// A client whose filters match nothing gets places to continue after.
func TestWatch_Bookmarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		for _, filters := range [][]string{{"type=secret"}, {"service=nosuch"}} {
			w, begin, _ := open(r, &swarmv1.WatchRequest{Filters: filters, Bookmarks: true})
			scene := func(name string) {
				r.Commit(table.Create(&swarmv1.Service{Id: name, Name: name, Revision: 1}))
			}
			scene(filters[0] + "a")
			time.Sleep(11 * time.Second)
			scene(filters[0] + "b")
			before := r.Store.View().Index()
			time.Sleep(11 * time.Second)
			e, err := w.Recv()
			if err != nil || e.GetType() != "" || e.GetIndex() <= begin || e.GetIndex() > before {
				t.Errorf("%v: got %v, %v, want a bookmark after %d", filters, e, err, begin)
			}
		}
	})
}

// A client that asks for a time before the oldest event that is kept is told so, and a client that
// wants to continue there is refused.
func TestWatch_TooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		_, begin, _ := open(r, &swarmv1.WatchRequest{})
		since := timestamppb.Now()
		for i := range 200 { // more than the 16 MiB that a manager keeps
			r.Commit(table.Put(&swarmv1.Credential{Id: "c", Name: strings.Repeat("x", 100<<10), Meta: &swarmv1.Meta{Version: uint64(i)}}))
		}
		if err := refusal(r, &swarmv1.WatchRequest{Index: begin}); !errdefs.IsOutOfRange(err) {
			t.Errorf("continue: got %v, want out of range", err)
		}
		if _, _, incomplete := open(r, &swarmv1.WatchRequest{Since: since}); !incomplete {
			t.Error("since: the client is not told that events are missing")
		}
	})
}

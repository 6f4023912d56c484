package object_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"swarm/manager/control/crud"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// lookupOf returns a function that finds the id of an object of one kind.
func lookupOf[T crud.Object](find func(*table.View, string) (T, error)) func(*table.View, string) (string, error) {
	return func(v *table.View, ref string) (string, error) {
		row, err := find(v, ref)
		return row.GetId(), err
	}
}

// Every kind is found by the same rule: exact id, exact name, then a unique beginning of the id.
func TestFind_OneRuleForAllNouns(t *testing.T) {
	for _, noun := range []struct {
		kind   string
		lookup func(*table.View, string) (string, error)
		// row makes an object. Names may be refused by the commands that create objects; here they
		// are hostile.
		row func(id, name string) []proto.Message
	}{
		{"node", lookupOf(object.Nodes().Find), func(id, name string) []proto.Message {
			return []proto.Message{&swarmv1.Node{Id: id, Hostname: name}}
		}},
		{"service", lookupOf(object.Services().Find), func(id, name string) []proto.Message {
			return []proto.Message{&swarmv1.Service{Id: id, Name: name}}
		}},
		{"network", lookupOf(object.Networks().Find), func(id, name string) []proto.Message {
			return []proto.Message{&swarmv1.Network{Id: id, Spec: &swarmv1.NetworkSpec{Name: name}}}
		}},
		{"image", lookupOf(object.Images().Find), func(id, name string) []proto.Message {
			return []proto.Message{&swarmv1.Image{Id: id, Name: "docker.io/library/" + name + ":latest", Digest: "sha256:" + strings.Repeat("0", 40) + id[:3]}}
		}},
		{"task of a service", lookupOf(object.FindRunning), func(id, name string) []proto.Message {
			task := "task" + id
			return []proto.Message{
				&swarmv1.Service{Id: id, Name: name},
				&swarmv1.Task{Id: task, ServiceId: id, Slot: 1}, &swarmv1.TaskStatus{TaskId: task, State: swarmv1.TaskState_RUNNING},
			}
		}},
	} {
		t.Run(noun.kind, func(t *testing.T) {
			var rows []proto.Message
			for id, name := range map[string]string{
				"aaaabbbbcccc1": "web", "aaaabbbbdddd2": "a", // the name is the beginning of ids
				"bbbbcccc3": "aaaabbbbc",     // the name is a unique beginning of another's id
				"cccc4":     "aaaabbbbdddd2", // the name is another's id
			} {
				rows = append(rows, noun.row(id, name)...)
			}
			v := raftstoretest.View(rows...)
			for ref, want := range map[string]string{
				"aaaabbbbcccc1": "aaaabbbbcccc1",
				"aaaabbbbdddd2": "aaaabbbbdddd2",
				"web":           "aaaabbbbcccc1",
				"a":             "aaaabbbbdddd2",
				"aaaabbbbc":     "bbbbcccc3",
				"aaaabbbbcc":    "aaaabbbbcccc1",
				"bbbb":          "bbbbcccc3",
				"bbb":           "not found",
				"":              "is not named",
				"w":             "not found",
				"b":             "not found",
				"aaaab":         "is ambiguous",
			} {
				got, err := noun.lookup(v, ref)
				switch {
				case err != nil && strings.Contains(err.Error(), want):
				case err != nil || got != want && got != "task"+want:
					t.Errorf("%q: got %q, %v, want %s", ref, got, err, want)
				}
			}
			_, err := noun.lookup(v, "aaaab")
			for _, candidate := range []string{"aaaabbbbcccc1 (", "aaaabbbbdddd2 ("} {
				if err == nil || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), candidate) {
					t.Errorf("an ambiguous reference: got %v, want candidate %s", err, candidate)
				}
			}
		})
	}
}

// The names of services, networks, hosts, and of tasks on them, are found in any case, as in DNS.
func TestFind_NamesWithoutCase(t *testing.T) {
	task := &swarmv1.Task{Id: "task1", ServiceId: "service1", Slot: 1}
	v := raftstoretest.View(
		&swarmv1.Service{Id: "service1", Name: "Api"}, task, &swarmv1.TaskStatus{TaskId: "task1", State: swarmv1.TaskState_RUNNING},
		&swarmv1.Network{Id: "network1", Spec: &swarmv1.NetworkSpec{Name: "n12"}}, &swarmv1.Node{Id: "node1", Hostname: "Host-A"},
	)
	for _, tc := range []struct {
		lookup    func(*table.View, string) (string, error)
		ref, want string
	}{
		{lookupOf(object.Services().Find), "API", "service1"},
		{lookupOf(object.Services().Find), "Api", "service1"},
		{lookupOf(object.Networks().Find), "N12", "network1"},
		{lookupOf(object.Nodes().Find), "host-a", "node1"},
		{lookupOf(object.FindRunning), "api.1", "task1"},
		{lookupOf(object.Tasks().Find), "API.1", "task1"},
	} {
		if got, err := tc.lookup(v, tc.ref); err != nil || got != tc.want {
			t.Errorf("%s: got %s, %v, want %s", tc.ref, got, err, tc.want)
		}
	}
}

func TestFind_AmbiguousNamesFiveCandidates(t *testing.T) {
	var rows []proto.Message
	for i := range 9 {
		rows = append(rows, &swarmv1.Node{Id: fmt.Sprintf("aaaa%d", i), Hostname: "twin"})
	}
	v := raftstoretest.View(rows...)
	for _, ref := range []string{"twin", "aaaa"} {
		_, err := object.Nodes().Find(v, ref)
		if err == nil || strings.Count(err.Error(), "(twin)") != crud.MaxCandidates || !strings.Contains(err.Error(), "others") {
			t.Errorf("%s: got %v, want %d candidates and others", ref, err, crud.MaxCandidates)
		}
	}
}

// tasksOf returns a replicated service web with two slots, a global service, and their tasks.
func tasksOf() []proto.Message {
	task := func(id, service string, slot uint64, node string, state, desired swarmv1.TaskState) []proto.Message {
		return []proto.Message{
			&swarmv1.Task{Id: id, ServiceId: service, Slot: slot, NodeId: node, DesiredState: desired}, &swarmv1.TaskStatus{TaskId: id, State: state},
		}
	}
	const ready, running, starting, down = swarmv1.TaskState_READY, swarmv1.TaskState_RUNNING, swarmv1.TaskState_STARTING, swarmv1.TaskState_SHUTDOWN
	return slices.Concat(
		[]proto.Message{&swarmv1.Service{Id: "servicew", Name: "web"}, &swarmv1.Service{Id: "serviceg", Name: "glob"}, &swarmv1.Service{Id: "servicet", Name: "t"}},
		task("t1old", "servicew", 1, "node1", down, down), task("t1run", "servicew", 1, "node1", running, down),
		task("t1new", "servicew", 1, "node1", ready, running), // takes over soon
		task("t2run", "servicew", 2, "node1", starting, running),
		task("tglob", "serviceg", 0, "nodeid1", running, running), task("tgold", "serviceg", 0, "nodeid2", down, down),
	)
}

func TestFindRunning(t *testing.T) {
	v := raftstoretest.View(tasksOf()...)
	for ref, want := range map[string]string{
		"web":          "t1run",
		"web.1":        "t1run",
		"web.2":        "t2run",
		"web.3":        "task or service web.3 not found",
		"t1old":        "t1old", // exec itself refuses a task that does not run
		"t1new":        "t1new",
		"t1ne":         "t1new",
		"glob":         "tglob",
		"glob.nodeid1": "tglob",
		"glob.nodeid2": "task glob.nodeid2 does not run: see `swarm service ps ",
		"t":            "service t has no running task", // and no other's
		"servicet":     "service t",
		"serv":         "is ambiguous",
		".1":           "not found",
	} {
		got, err := object.FindRunning(v, ref)
		if err != nil && !strings.Contains(err.Error(), want) && want != "service t" || err == nil && got.GetId() != want {
			t.Errorf("%s: got %v, %v, want %s", ref, got.GetId(), err, want)
		}
	}
}

func TestFindTask_ByName(t *testing.T) {
	v := raftstoretest.View(tasksOf()...)
	for ref, want := range map[string]string{"web.1": "t1new", "web.2": "t2run", "glob.nodeid1": "tglob", "glob.nodeid2": "tgold"} {
		if got, err := object.Tasks().Find(v, ref); err != nil || got.GetId() != want {
			t.Errorf("%s: got %v, %v, want %s", ref, got.GetId(), err, want)
		}
	}
}

func TestFindImage_ByDigest(t *testing.T) {
	digest := "sha256:" + strings.Repeat("abcd", 16)
	v := raftstoretest.View(&swarmv1.Image{Id: "image1", Name: "docker.io/library/abcd:latest", Digest: digest}, &swarmv1.Image{Id: "image2", Name: "docker.io/library/x:1", Digest: "sha256:" + strings.Repeat("9", 64)})
	for ref, want := range map[string]string{
		digest: "image1", strings.TrimPrefix(digest, "sha256:"): "image1", "docker.io/library/x@" + digest: "image1",
		"abcd": "image1", "sha256:9999": "image2", "9999": "image2", "999": "", "x:1": "image2",
	} {
		if got, err := object.Images().Find(v, ref); got.GetId() != want || (err != nil) != (want == "") {
			t.Errorf("%s: got %v, %v, want %q", ref, got.GetId(), err, want)
		}
	}
}

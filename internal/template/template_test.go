package template

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	swarmv1 "swarm/proto/swarm/v1"
)

func revision(spec *swarmv1.ContainerSpec) *swarmv1.Revision {
	return &swarmv1.Revision{ServiceId: "s1", Spec: &swarmv1.ServiceSpec{
		Name: "web", Labels: map[string]string{"tier": "front"}, TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: spec},
	}}
}

func TestExpand(t *testing.T) {
	node := Node{ID: "n1", Hostname: "host1", OS: "linux", Arch: "amd64"}
	task := &swarmv1.Task{Id: "t1", Slot: 2, NodeId: "n1"}
	rev := revision(&swarmv1.ContainerSpec{
		Hostname: "{{.Service.Name}}-{{.Task.Slot}}",
		Env:      []string{"PLAIN=a", "WHO={{.Task.Name}} on {{.Node.Hostname}}/{{.Node.Platform.Architecture}}", `TIER={{index .Service.Labels "tier" | upper}}{{.Service.Labels.none}}`},
		Mounts:   []*swarmv1.Mount{{Source: "data-{{.Task.ID}}", Target: "/d/{{.Node.ID}}"}},
	})
	before := rev.CloneVT()
	got, err := Expand(rev, task, node)
	if err != nil {
		t.Fatal(err)
	}
	want := revision(&swarmv1.ContainerSpec{
		Hostname: "web-2",
		Env:      []string{"PLAIN=a", "WHO=web.2.t1 on host1/amd64", "TIER=FRONT"},
		Mounts:   []*swarmv1.Mount{{Source: "data-t1", Target: "/d/n1"}},
	})
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before, rev, protocmp.Transform()); diff != "" {
		t.Errorf("the stored revision was changed: %s", diff)
	}
	global, err := Expand(revision(&swarmv1.ContainerSpec{Hostname: "{{.Task.Name}}"}), &swarmv1.Task{Id: "t1", NodeId: "n1"}, node)
	if err != nil || global.Spec.TaskTemplate.ContainerSpec.Hostname != "web.n1.t1" {
		t.Errorf("task of a global service: %v, %v", global, err)
	}
	for _, bad := range []string{"{{", "{{.Nope}}", "{{.Service.Nope}}", "{{env \"HOME\"}}"} {
		if _, err := Expand(revision(&swarmv1.ContainerSpec{Env: []string{bad}}), task, node); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want invalid argument", bad, err)
		}
	}
	plain := revision(&swarmv1.ContainerSpec{Env: []string{"A=b"}})
	if got, _ := Expand(plain, task, node); got != plain {
		t.Error("a revision without templates was copied")
	}
}

func TestHostname(t *testing.T) {
	task, node := &swarmv1.Task{Id: "t1", Slot: 2, NodeId: "n1"}, Node{ID: "n1", Hostname: "host1"}
	for text, want := range map[string]string{"": "", "plain": "plain", "{{.Service.Name}}-{{.Task.Slot}}.{{.Node.Hostname}}": "web-2.host1"} {
		if got, err := Hostname(revision(&swarmv1.ContainerSpec{Hostname: text}), task, node); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	if _, err := Hostname(revision(&swarmv1.ContainerSpec{Hostname: "{{.Nope}}"}), task, node); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown field: %v", err)
	}
}

// FuzzExpand expands arbitrary templates, because every user that may create services can send them
// to managers and workers. No template may panic, take long, or give more than maxText bytes.
func FuzzExpand(f *testing.F) {
	for _, s := range []string{
		"{{.Service.Name}}-{{.Task.Slot}}", `{{index .Service.Labels "tier" | upper}}`, `{{define "a"}}x{{template "a"}}{{end}}{{template "a"}}`,
		`{{printf "%999999d" 1}}`, "{{range .Service.Labels}}{{.}}{{end}}", `{{join (split .Task.ID "1") ","}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Hostname(revision(&swarmv1.ContainerSpec{Hostname: s}), &swarmv1.Task{Id: "t1", Slot: 2}, Node{ID: "n1", Hostname: "host1"})
		if err == nil && len(got) > maxText && isTemplate(s) {
			t.Errorf("%q: %d bytes, want at most %d", s, len(got), maxText)
		}
	})
}

func TestExpandFile(t *testing.T) {
	rev := revision(&swarmv1.ContainerSpec{Env: []string{"COLOUR=blue=sky", "EMPTY"}})
	task, files := &swarmv1.Task{Id: "t1", Slot: 2}, Files{Secrets: map[string][]byte{"db": []byte("hunter2")}, Configs: map[string][]byte{"/a": []byte("text")}}
	for in, want := range map[string]string{
		"plain": "plain", `{{.Service.Name}}.{{.Task.Slot}} {{env "COLOUR"}} {{env "NONE"}}{{secret "db"}} {{config "/a" | upper}}`: "web.2 blue=sky hunter2 TEXT",
	} {
		if got, err := ExpandFile([]byte(in), rev, task, Node{}, files, 100); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"a\n{{secret \"none\"}}hunter2":       "line 2: the service has no secret with this target",
		"{{hunter2}}":                         "line 1: use the fields and functions that Docker has",
		"{{.Task.hunter2}}":                   "line 1: use the fields and functions that Docker has",
		strings.Repeat(`{{secret "db"}}`, 20): "it gives more than 100 bytes",
	} {
		if _, err := ExpandFile([]byte(in), rev, task, Node{}, files, 100); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %q", in, err, want)
		}
	}
}

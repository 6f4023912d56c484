// Package template expands the templates that Docker allows in a service: in env, hostname and the
// sources and targets of mounts, for example {{.Service.Name}}.{{.Task.Slot}}. It returns
// errdefs.ErrInvalidArgument for a template that does not parse or has an unknown field. It is pure
// and runs no goroutine. The worker calls it for each task that it prepares, and the dispatcher for
// the hostnames that other nodes resolve.
package template

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	texttemplate "text/template"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// Node has the properties of the node that templates may use.
type Node struct {
	ID, Hostname, OS, Arch string
}

// data has the fields that templates may use, with the names of Docker.
type data struct {
	Service struct {
		ID, Name string
		Labels   map[string]string
	}
	Node struct {
		ID, Hostname string
		Platform     struct{ Architecture, OS string }
	}
	Task struct {
		ID, Name, Slot string
	}
}

// Expand returns the revision with all templates expanded for a task. It returns rev itself if rev
// has no templates.
func Expand(rev *swarmv1.Revision, task *swarmv1.Task, node Node) (*swarmv1.Revision, error) {
	if !slices.ContainsFunc(fields(rev.GetSpec()), func(p field) bool { return isTemplate(*p.text) }) {
		return rev, nil
	}
	d := dataOf(rev, task, node)
	out := rev.CloneVT()
	for _, p := range fields(out.Spec) {
		if err := expand(p.what, p.text, d); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Check returns an error if a template cannot be expanded for any task, because it does not parse
// or has an unknown field. Other templates may still fail for a certain task and node.
func Check(spec *swarmv1.ServiceSpec) error {
	d := dataOf(&swarmv1.Revision{Spec: spec}, &swarmv1.Task{}, Node{})
	for _, p := range fields(spec) {
		text := *p.text
		if err := expand(p.what, &text, d); errors.Is(err, errNever) {
			return err
		}
	}
	return nil
}

// field is a text of a spec that may be a template.
type field struct {
	what string
	text *string
}

func fields(spec *swarmv1.ServiceSpec) []field {
	c := spec.GetTaskTemplate().GetContainerSpec()
	if c == nil {
		return nil
	}
	var out []field
	for i := range c.Env {
		out = append(out, field{"env", &c.Env[i]})
	}
	out = append(out, field{"hostname", &c.Hostname})
	for _, m := range c.Mounts {
		out = append(out, field{"mount source", &m.Source}, field{"mount target", &m.Target})
	}
	return out
}

// Hostname returns the hostname that the service sets for its containers, expanded for a task. It
// returns "" if the service sets none.
func Hostname(rev *swarmv1.Revision, task *swarmv1.Task, node Node) (string, error) {
	name := rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetHostname()
	if !isTemplate(name) {
		return name, nil
	}
	err := expand("hostname", &name, dataOf(rev, task, node))
	return name, err
}

// SlotSource returns the source of a mount for the tasks of a slot. known is false if the source is
// not valid, or differs between the tasks of the slot or between nodes: then it is known only after
// a task has been placed.
func SlotSource(rev *swarmv1.Revision, slot uint64, source string) (name string, known bool) {
	if !isTemplate(source) {
		return source, true
	}
	results := [2]string{source, source}
	for i, any := range []string{"a", "b"} {
		t, n := &swarmv1.Task{Id: any, NodeId: any, Slot: slot}, Node{ID: any, Hostname: any, OS: any, Arch: any}
		if err := expand("mount source", &results[i], dataOf(rev, t, n)); err != nil {
			return "", false
		}
	}
	return results[0], results[0] == results[1] && results[0] != ""
}

func isTemplate(s string) bool { return strings.Contains(s, "{{") }

func dataOf(rev *swarmv1.Revision, task *swarmv1.Task, node Node) *data {
	d := &data{}
	d.Service.ID, d.Service.Name, d.Service.Labels = rev.GetServiceId(), rev.GetSpec().GetName(), rev.GetSpec().GetLabels()
	d.Node.ID, d.Node.Hostname = node.ID, node.Hostname
	d.Node.Platform.Architecture, d.Node.Platform.OS = node.Arch, node.OS
	d.Task.ID = task.GetId()
	d.Task.Slot = strconv.FormatUint(task.GetSlot(), 10)
	place := d.Task.Slot
	if task.GetSlot() == 0 { // a task of a global service has a node instead of a slot
		place = task.GetNodeId()
	}
	d.Task.Name = d.Service.Name + "." + place + "." + d.Task.ID
	return d
}

func expand(what string, s *string, d *data) error {
	if !isTemplate(*s) {
		return nil
	}
	t, err := texttemplate.New(what).Option("missingkey=zero").Funcs(functions()).Parse(*s)
	if err != nil {
		return fmt.Errorf("%w%w", invalid(what, *s, err), errNever)
	}
	b := boundedText{limit: maxText}
	if err := t.Execute(&b, d); err != nil {
		if strings.Contains(err.Error(), "can't evaluate field") { // text/template has no error type for this
			return fmt.Errorf("%w%w", invalid(what, *s, err), errNever)
		}
		return invalid(what, *s, err)
	}
	*s = b.text.String()
	return nil
}

// maxText is the longest result of a template, in bytes. Managers expand hostnames, and a short
// template can ask for gigabytes.
const maxText = 64 << 10

// boundedText is a text that refuses to become longer than limit bytes.
type boundedText struct {
	text  strings.Builder
	limit int
}

// tooLong is the error of a text that would be longer than so many bytes.
type tooLong int

func (t tooLong) Error() string { return fmt.Sprintf("it gives more than %d bytes", int(t)) }

func (b *boundedText) Write(p []byte) (int, error) {
	if b.text.Len()+len(p) > b.limit {
		return 0, tooLong(b.limit)
	}
	return b.text.Write(p)
}

// functions returns the template functions of Docker that are useful for text.
func functions() texttemplate.FuncMap {
	return texttemplate.FuncMap{
		"split": strings.Split,
		"join":  strings.Join,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
	}
}

// errNever marks a template that cannot be expanded for any task. It adds no text.
var errNever = errors.New("")

func invalid(what, text string, err error) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s %q is not a valid template: %s; use .Service, .Node and .Task, as in Docker",
		what, text, reason(err)))
}

// text/template adds the position and the Go type to its errors. These expressions remove them,
// because they say nothing to users.
var (
	noField = regexp.MustCompile(`can't evaluate field (\S+) in type \S+`)
	// fileFunction finds a function that only files have (see ExpandFile).
	fileFunction = regexp.MustCompile(`function "(secret|config|env)" not defined`)
	coordinates  = regexp.MustCompile(`^template: [^:]+(:\d+)+: (executing "[^"]*" at <[^>]*>: )?`)
)

// reason returns the error text of text/template in words for users.
func reason(err error) string {
	text := coordinates.ReplaceAllString(err.Error(), "")
	if m := fileFunction.FindStringSubmatch(text); m != nil {
		return fmt.Sprintf("the function %s works only in a config or secret with --template-driver golang, because the container runtime keeps this text on its disk", m[1])
	}
	return noField.ReplaceAllString(text, "there is no field $1")
}

// Package template expands the templates that Docker allows in a service: in env, hostname and the sources and targets
// of mounts, e.g. {{.Service.Name}}.{{.Task.Slot}}. It refuses templates that do not parse or name something unknown
// (ErrInvalidArgument). It is pure and runs no goroutine; worker calls it for each task that it prepares, dispatch for the
// hostnames that other nodes resolve.
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

// Node is what templates may know of the node.
type Node struct {
	ID, Hostname, OS, Arch string
}

// data has the names that Docker gives to what templates may use.
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

// Expand returns the revision with all templates filled in for a task: rev itself when it has none.
func Expand(rev *swarmv1.Revision, task *swarmv1.Task, node Node) (*swarmv1.Revision, error) {
	if !slices.ContainsFunc(places(rev.GetSpec()), func(p place) bool { return isTemplate(*p.text) }) {
		return rev, nil
	}
	d := dataOf(rev, task, node)
	out := rev.CloneVT()
	for _, p := range places(out.Spec) {
		if err := expand(p.what, p.text, d); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Check refuses a spec with a template that cannot be filled in for any task: one that does not parse, or names a field that
// does not exist. Whether the others can be depends on the task and its node.
func Check(spec *swarmv1.ServiceSpec) error {
	d := dataOf(&swarmv1.Revision{Spec: spec}, &swarmv1.Task{}, Node{})
	for _, p := range places(spec) {
		text := *p.text
		if err := expand(p.what, &text, d); errors.Is(err, errNever) {
			return err
		}
	}
	return nil
}

// place is a text of a spec that may be a template.
type place struct {
	what string
	text *string
}

func places(spec *swarmv1.ServiceSpec) []place {
	c := spec.GetTaskTemplate().GetContainerSpec()
	if c == nil {
		return nil
	}
	var out []place
	for i := range c.Env {
		out = append(out, place{"env", &c.Env[i]})
	}
	out = append(out, place{"hostname", &c.Hostname})
	for _, m := range c.Mounts {
		out = append(out, place{"mount source", &m.Source}, place{"mount target", &m.Target})
	}
	return out
}

// Hostname is the one that the service sets for its containers, filled in for a task; "" when it sets none.
func Hostname(rev *swarmv1.Revision, task *swarmv1.Task, node Node) (string, error) {
	name := rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetHostname()
	if !isTemplate(name) {
		return name, nil
	}
	err := expand("hostname", &name, dataOf(rev, task, node))
	return name, err
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
	if task.GetSlot() == 0 { // a global service's slot is its node
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
	b := bounded{room: maxText}
	if err := t.Execute(&b, d); err != nil {
		if strings.Contains(err.Error(), "can't evaluate field") { // text/template has no error of its own for this
			return fmt.Errorf("%w%w", invalid(what, *s, err), errNever)
		}
		return invalid(what, *s, err)
	}
	*s = b.text.String()
	return nil
}

// maxText is the longest text that a template may give, in bytes: managers expand hostnames, and a few characters of a
// template can ask for gigabytes.
const maxText = 64 << 10

// bounded is a text that refuses to become longer.
type bounded struct {
	text strings.Builder
	room int
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(p) > b.room {
		return 0, fmt.Errorf("it gives more than %d bytes", maxText)
	}
	b.room -= len(p)
	return b.text.Write(p)
}

// functions are those of Docker's templates that make sense on text.
func functions() texttemplate.FuncMap {
	return texttemplate.FuncMap{
		"split": strings.Split,
		"join":  strings.Join,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
	}
}

// errNever marks a template that can be filled in for no task; it adds no words.
var errNever = errors.New("")

func invalid(what, text string, err error) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s %q is no valid template: %s; known are .Service, .Node and .Task, as in Docker",
		what, text, reason(err)))
}

// Where in which template, and of which type of ours: text/template says so for programmers.
var (
	noField     = regexp.MustCompile(`can't evaluate field (\S+) in type \S+`)
	coordinates = regexp.MustCompile(`^template: [^:]+(:\d+)+: (executing "[^"]*" at <[^>]*>: )?`)
)

// reason is what text/template says, in words for users.
func reason(err error) string {
	text := coordinates.ReplaceAllString(err.Error(), "")
	return noField.ReplaceAllString(text, "there is no field $1")
}

// Package template expands the templates that Docker allows in a service: in env, hostname and the sources and targets
// of mounts, e.g. {{.Service.Name}}.{{.Task.Slot}}. It refuses templates that do not parse or name something unknown
// (ErrInvalidArgument). It is pure and runs no goroutine; worker calls it for each task that it prepares, dispatch for the
// hostnames that other nodes resolve.
package template

import (
	"fmt"
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
	if !hasTemplates(rev.GetSpec().GetTaskTemplate().GetContainerSpec()) {
		return rev, nil
	}
	d := dataOf(rev, task, node)
	out := rev.CloneVT()
	spec := out.Spec.TaskTemplate.ContainerSpec
	for i := range spec.Env {
		if err := expand("env", &spec.Env[i], d); err != nil {
			return nil, err
		}
	}
	if err := expand("hostname", &spec.Hostname, d); err != nil {
		return nil, err
	}
	for _, m := range spec.Mounts {
		if err := expand("mount source", &m.Source, d); err != nil {
			return nil, err
		}
		if err := expand("mount target", &m.Target, d); err != nil {
			return nil, err
		}
	}
	return out, nil
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

func hasTemplates(spec *swarmv1.ContainerSpec) bool {
	if spec == nil {
		return false
	}
	for _, e := range spec.Env {
		if isTemplate(e) {
			return true
		}
	}
	for _, m := range spec.Mounts {
		if isTemplate(m.Source) || isTemplate(m.Target) {
			return true
		}
	}
	return isTemplate(spec.Hostname)
}

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
		return invalid(what, *s, err)
	}
	b := bounded{room: maxText}
	if err := t.Execute(&b, d); err != nil {
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

func invalid(what, text string, err error) error {
	return fmt.Errorf("%s %q is no valid template: %s; known are .Service, .Node and .Task, as in Docker: %w",
		what, text, strings.TrimPrefix(err.Error(), "template: "), errdefs.ErrInvalidArgument)
}

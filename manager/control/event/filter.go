package event

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/eventplace"
	"swarm/manager/control/crud"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// maxFilters limits the filters of a request.
const maxFilters = 256

// filter says which events a client gets.
type filter struct {
	// tables are those whose events have a type that the client asked for.
	tables  map[table.ID]crud.Events
	actions []string
	// objects are values by kind: an object of that kind has an id that begins with the value, or
	// its name is the value. Services and nodes also match the objects that belong to them.
	objects map[string][]string
	// base has the labels, and the beginnings of ids and names.
	base *swarmv1.Filter
	// none says that no event matches.
	none bool
}

// parse returns the filter that the words KEY=VALUE describe.
func parse(v *table.View, events []crud.Events, words []string) (*filter, error) {
	if len(words) > maxFilters {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%d filters are given: give at most %d", len(words), maxFilters))
	}
	f := &filter{tables: map[table.ID]crud.Events{}, objects: map[string][]string{}, base: &swarmv1.Filter{}}
	var types, scopes []string
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		if err := eventplace.CheckFilter(key, value); err != nil {
			return nil, err
		}
		switch key {
		case "type":
			types = append(types, kindOf(value))
		case "event", "action":
			f.actions = append(f.actions, value)
		case "scope":
			scopes = append(scopes, value)
		case "label":
			f.base.Labels = append(f.base.Labels, value)
		case "id":
			f.base.IdPrefixes = append(f.base.IdPrefixes, value)
		case "name":
			f.base.NamePrefixes = append(f.base.NamePrefixes, value)
		default:
			f.objects[kindOf(key)] = append(f.objects[kindOf(key)], value)
		}
	}
	f.none = len(scopes) > 0 && !slices.Contains(scopes, eventplace.Scope)
	for _, e := range events {
		if slices.Contains(types, e.Type()) || len(types) == 0 && !e.Detail {
			f.tables[e.Table] = e
		}
	}
	f.resolve(v)
	return f, nil
}

// kindOf returns what we call the kind of objects that Docker calls key.
func kindOf(key string) string {
	if key == "container" {
		return "task"
	}
	return key
}

// resolve adds the ids of the services and nodes that exist now, so that their names match also
// after they were removed.
func (f *filter) resolve(v *table.View) {
	for _, value := range f.objects["service"] {
		if s, err := object.Services().Find(v, value); err == nil {
			f.objects["service"] = append(f.objects["service"], s.GetId())
		}
	}
	for _, value := range f.objects["node"] {
		if n, err := object.Nodes().Find(v, value); err == nil {
			f.objects["node"] = append(f.objects["node"], n.GetId())
		}
	}
}

// matches reports whether a client gets an event. subject is what filters see of its object.
func (f *filter) matches(v *table.View, e *swarmv1.Event, subject crud.Subject) bool {
	if f.none || len(f.actions) > 0 && !slices.Contains(f.actions, strings.ToLower(e.GetAction().String())) || !crud.Matches(f.base, subject) {
		return false
	}
	for kind, values := range f.objects {
		if !slices.ContainsFunc(values, func(value string) bool { return concerns(v, e, subject, kind, value) }) {
			return false
		}
	}
	return true
}

// concerns reports whether an event is about the object of a kind that a value names, or about one
// that belongs to it.
func concerns(v *table.View, e *swarmv1.Event, s crud.Subject, kind, value string) bool {
	is := func(id, name string) bool { return strings.HasPrefix(id, value) || strings.EqualFold(name, value) }
	switch {
	case e.GetType() == kind && is(e.GetId(), e.GetAttributes()["name"]):
		return true
	case e.GetType() == kind && kind == "image":
		return imageIs(e.GetAttributes()["name"], value)
	case kind == "image":
		return imageIs(e.GetAttributes()["image"], value)
	case kind == "service":
		return slices.ContainsFunc(s.Services, func(id string) bool { return is(id, object.ServiceName(v, id)) })
	case kind == "node":
		return slices.ContainsFunc(s.Nodes, func(id string) bool { return id != "" && is(id, object.NodeName(v, id)) })
	}
	return false
}

// imageIs reports whether a user may call an image by a name: with or without its registry, tag and
// digest.
func imageIs(image, name string) bool {
	image, _, _ = strings.Cut(image, "@")
	for _, prefix := range []string{"", "docker.io/library/", "docker.io/"} {
		rest, ok := strings.CutPrefix(image, prefix+name)
		if ok && image != "" && (rest == "" || rest[0] == ':' && !strings.Contains(rest, "/")) {
			return true
		}
	}
	return false
}

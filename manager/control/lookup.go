package control

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

const (
	// listed is how many candidates the error for an ambiguous reference names.
	listed = 5
	// minPrefix is the least number of characters that are taken for the beginning of an id. Ids are random: with five
	// tasks, one of seven single letters begins the id of one. A short reference therefore is a name, or a typing error.
	minPrefix = 4
)

// object is a row that users refer to by its id.
type object interface{ GetId() string }

// storedObject is an object that has a table.
type storedObject interface {
	raftstore.Row
	object
}

// noun is a kind of objects, and how a reference finds them.
type noun struct {
	// kind is the word for one of them, list the command that lists them.
	kind, list string
	// byID yields the objects with exactly this id, byName those with this name, and byPrefix those whose id begins so.
	byID, byName, byPrefix func(string) iter.Seq[object]
	// label is what a user calls the object, to tell candidates apart.
	label func(object) string
}

// find is the only rule by which a reference becomes an object, whatever the command. An exact id comes first, then a name,
// without regard to case, then the beginning of an id, of at least minPrefix characters. Each step looks at all nouns before the next one
// does, so that the name of a service is never taken for the beginning of a task's id. More than one match is an error that
// names the candidates; none is ErrNotFound.
func find(ref string, nouns ...noun) (object, error) {
	kinds := kindsOf(nouns)
	if ref == "" {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is not named: give its id, the beginning of its id, or its name", kinds))
	}
	for _, step := range []func(noun) func(string) iter.Seq[object]{
		func(n noun) func(string) iter.Seq[object] { return n.byID },
		func(n noun) func(string) iter.Seq[object] { return n.byName },
		func(n noun) func(string) iter.Seq[object] { return n.byPrefix },
	} {
		var only object
		var candidates []string
		for _, n := range nouns {
			for row := range step(n)(ref) {
				only, candidates = row, append(candidates, fmt.Sprintf("%s %s (%s)", n.kind, row.GetId(), n.label(row)))
				if len(candidates) > listed {
					break
				}
			}
		}
		switch len(candidates) {
		case 0:
			continue
		case 1:
			return only, nil
		}
		if len(candidates) > listed {
			candidates = append(candidates[:listed], "others")
		}
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s %s is ambiguous: it may be any of %s: give the whole id", kinds, ref, strings.Join(candidates, ", ")))
	}
	return nil, notFound(ref, kinds, nouns)
}

func kindsOf(nouns []noun) string {
	kinds := make([]string, 0, len(nouns))
	for _, n := range nouns {
		kinds = append(kinds, n.kind)
	}
	return strings.Join(kinds, " or ")
}

func notFound(ref, kinds string, nouns []noun) error {
	lists := make([]string, 0, len(nouns))
	for _, n := range nouns {
		lists = append(lists, "`"+n.list+"`")
	}
	short := ""
	if len(ref) < minPrefix {
		short = fmt.Sprintf(" (the beginning of an id needs %d characters or more)", minPrefix)
	}
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s %s not found%s: list them with %s", kinds, ref, short, strings.Join(lists, " and ")))
}

// rows makes the steps of a noun from a table and the names of its rows.
func rows[T storedObject](table raftstore.Table[T], byName func(string) iter.Seq[object]) noun {
	return noun{
		byID: func(id string) iter.Seq[object] {
			row, ok := table.Get(id)
			return one(row, ok)
		},
		byName: byName,
		byPrefix: func(prefix string) iter.Seq[object] {
			return func(yield func(object) bool) {
				if len(prefix) < minPrefix {
					return
				}
				for row := range table.Prefix(prefix) {
					if !yield(row) {
						return
					}
				}
			}
		},
	}
}

// one yields the row, if it is there.
func one[T object](row T, ok bool) iter.Seq[object] {
	return func(yield func(object) bool) {
		if ok {
			yield(row)
		}
	}
}

// among yields the rows of a table that fit.
func among[T storedObject](table raftstore.Table[T], fits func(T) bool) iter.Seq[object] {
	return func(yield func(object) bool) {
		for row := range table.All() {
			if fits(row) && !yield(row) {
				return
			}
		}
	}
}

func nodeNoun(v *raftstore.View) noun {
	n := rows(v.Nodes, func(name string) iter.Seq[object] {
		return among(v.Nodes, func(n *swarmv1.Node) bool { return called(n, name) })
	})
	n.kind, n.list = "node", "swarm node ls"
	n.label = func(o object) string { return nodeName(v, o.GetId()) }
	return n
}

// called reports whether a node has this name, without regard to case, as hostnames are compared.
func called(n *swarmv1.Node, name string) bool {
	return strings.EqualFold(n.GetSpec().GetName(), name) || strings.EqualFold(n.GetHostname(), name)
}

func serviceNoun(v *raftstore.View) noun {
	n := rows(v.Services, func(name string) iter.Seq[object] { return one(v.ServiceByName(name)) })
	n.kind, n.list = "service", "swarm service ls"
	n.label = func(o object) string { return o.(*swarmv1.Service).GetName() }
	return n
}

func networkNoun(v *raftstore.View) noun {
	n := rows(v.Networks, func(name string) iter.Seq[object] { return one(v.NetworkByName(name)) })
	n.kind, n.list = "network", "swarm network ls"
	n.label = func(o object) string { return o.(*swarmv1.Network).GetSpec().GetName() }
	return n
}

// taskNoun: the name of a task is that of its slot, so the newest task of the slot has it.
func taskNoun(v *raftstore.View) noun {
	n := rows(v.Tasks, func(name string) iter.Seq[object] {
		t := newest(tasksNamed(v, name))
		return one(t, t != nil)
	})
	n.kind, n.list = "task", "swarm task ls"
	n.label = func(o object) string {
		t := o.(*swarmv1.Task)
		return taskName(serviceName(v, t.GetServiceId()), t)
	}
	return n
}

// imageNoun: the digest of an image, in hexadecimal digits, is an id of it too. Several names may have one digest.
func imageNoun(v *raftstore.View) noun {
	n := rows(v.Images, func(name string) iter.Seq[object] {
		parsed, err := spec.ParseImage(name)
		if err != nil || parsed.Digest != "" {
			return one[*swarmv1.Image](nil, false)
		}
		return one(v.ImageByName(parsed.Name))
	})
	hex := func(digest string) string { return strings.TrimPrefix(digest, "sha256:") }
	byRow, byRowPrefix := n.byID, n.byPrefix
	n.byID = func(ref string) iter.Seq[object] {
		digest := ref
		if parsed, err := spec.ParseImage(ref); err == nil && parsed.Digest != "" {
			digest = parsed.Digest
		}
		return either(byRow(ref), among(v.Images, func(i *swarmv1.Image) bool { return hex(i.GetDigest()) == hex(digest) }))
	}
	n.byPrefix = func(ref string) iter.Seq[object] {
		digits := hex(ref)
		return either(byRowPrefix(ref), among(v.Images, func(i *swarmv1.Image) bool {
			return len(digits) >= minPrefix && strings.HasPrefix(hex(i.GetDigest()), digits)
		}))
	}
	n.kind, n.list = "image", "swarm image ls"
	n.label = func(o object) string { return o.(*swarmv1.Image).GetName() }
	return n
}

// either yields what the first yields, then what the second does.
func either(first, second iter.Seq[object]) iter.Seq[object] {
	return func(yield func(object) bool) {
		for _, seq := range []iter.Seq[object]{first, second} {
			for row := range seq {
				if !yield(row) {
					return
				}
			}
		}
	}
}

// typed is find for one noun.
func typed[T object](ref string, n noun) (T, error) {
	found, err := find(ref, n)
	if err != nil {
		var none T
		return none, err
	}
	return found.(T), nil
}

func findNode(v *raftstore.View, ref string) (*swarmv1.Node, error) {
	return typed[*swarmv1.Node](ref, nodeNoun(v))
}

func findService(v *raftstore.View, ref string) (*swarmv1.Service, error) {
	return typed[*swarmv1.Service](ref, serviceNoun(v))
}

func findNetwork(v *raftstore.View, ref string) (*swarmv1.Network, error) {
	return typed[*swarmv1.Network](ref, networkNoun(v))
}

func findTask(v *raftstore.View, ref string) (*swarmv1.Task, error) {
	return typed[*swarmv1.Task](ref, taskNoun(v))
}

func findImage(v *raftstore.View, ref string) (*swarmv1.Image, error) {
	return typed[*swarmv1.Image](ref, imageNoun(v))
}

// findRunning finds the task that a command can run in. A service stands for its running task with the lowest slot, the
// name of a task for the running task of that slot. An id means that task alone, whatever its state is.
func findRunning(v *raftstore.View, ref string) (*swarmv1.Task, error) {
	found, err := find(ref, taskNoun(v), serviceNoun(v))
	if err != nil {
		return nil, err
	}
	t, isTask := found.(*swarmv1.Task)
	if isTask && strings.HasPrefix(t.GetId(), ref) {
		return t, nil
	}
	of := v.TasksOfService(found.GetId())
	if isTask {
		of = tasksNamed(v, ref)
	}
	running := slices.SortedFunc(of, func(a, b *swarmv1.Task) int {
		return cmp.Or(cmp.Compare(starting(v, a), starting(v, b)), cmp.Compare(a.GetSlot(), b.GetSlot()), cmp.Compare(a.GetId(), b.GetId()))
	})
	if len(running) == 0 || starting(v, running[0]) > 1 {
		if isTask {
			return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("task %s does not run: see `swarm service ps %s`", ref, serviceName(v, t.GetServiceId())))
		}
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("service %s has no running task: see `swarm service ps %s`", ref, ref))
	}
	return running[0], nil
}

// starting ranks tasks by how well a command can run in them: running, starting, not at all.
func starting(v *raftstore.View, t *swarmv1.Task) int {
	switch v.Status(t.GetId()).GetState() {
	case swarmv1.TaskState_RUNNING:
		return 0
	case swarmv1.TaskState_STARTING:
		return 1
	}
	return 2
}

// tasksNamed yields the tasks, running and past, that lists show with this name: "web.1", of a global service "web.NODE".
func tasksNamed(v *raftstore.View, name string) iter.Seq[*swarmv1.Task] {
	return func(yield func(*swarmv1.Task) bool) {
		i := strings.LastIndexByte(name, '.')
		if i <= 0 {
			return
		}
		svc, ok := v.ServiceByName(name[:i])
		if !ok {
			return
		}
		for t := range v.TasksOfService(svc.GetId()) {
			if strings.EqualFold(taskName(svc.GetName(), t), name) && !yield(t) {
				return
			}
		}
	}
}

// newest prefers the task that is to run over history, and the later one among equals. It is nil when there is none.
func newest(tasks iter.Seq[*swarmv1.Task]) *swarmv1.Task {
	var best *swarmv1.Task
	for t := range tasks {
		live, bestLive := t.GetDesiredState() <= swarmv1.TaskState_RUNNING, best.GetDesiredState() <= swarmv1.TaskState_RUNNING
		if best == nil || live && !bestLive || live == bestLive && t.GetMeta().GetCreatedAt().AsTime().After(best.GetMeta().GetCreatedAt().AsTime()) {
			best = t
		}
	}
	return best
}

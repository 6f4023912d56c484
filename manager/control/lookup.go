package control

import (
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// listed is how many candidates an ambiguous reference is answered with.
const listed = 5

// rows is what find needs of a table.
type rows[T any] interface {
	Get(key string) (T, bool)
	All() iter.Seq[T]
	Prefix(p string) iter.Seq[T]
}

// find looks a reference up: as an id, as a name, as the beginning of an id. The order keeps a name that looks like the
// beginning of another's id usable. list is the command that shows what there is.
func find[T any](kind, ref, list string, table rows[T], id func(T) string, names func(T) []string) (T, error) {
	var none T
	if ref == "" {
		return none, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is not named: give its id, the beginning of its id, or its name", kind))
	}
	if row, ok := table.Get(ref); ok {
		return row, nil
	}
	var found []T
	if names != nil {
		for row := range table.All() {
			for _, n := range names(row) {
				if n == ref {
					found = append(found, row)
					break
				}
			}
		}
	}
	if len(found) == 0 {
		for row := range table.Prefix(ref) {
			found = append(found, row)
			if len(found) > listed {
				break
			}
		}
	}
	switch len(found) {
	case 0:
		return none, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s %s not found: list them with `%s`", kind, ref, list))
	case 1:
		return found[0], nil
	}
	ids := make([]string, 0, listed)
	for _, row := range found[:min(listed, len(found))] {
		ids = append(ids, id(row))
	}
	return none, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s %s is ambiguous: it may be any of %s: give more of the id", kind, ref, strings.Join(ids, ", ")))
}

func findNode(v *raftstore.View, ref string) (*swarmv1.Node, error) {
	return find("node", ref, "swarm node ls", v.Nodes, (*swarmv1.Node).GetId, func(n *swarmv1.Node) []string {
		return []string{n.GetSpec().GetName(), n.GetHostname()}
	})
}

func findService(v *raftstore.View, ref string) (*swarmv1.Service, error) {
	if svc, ok := v.ServiceByName(ref); ok {
		return svc, nil
	}
	return find("service", ref, "swarm service ls", v.Services, (*swarmv1.Service).GetId, nil)
}

// findTask also takes "service.slot": the newest task of that slot.
func findTask(v *raftstore.View, ref string) (*swarmv1.Task, error) {
	if t, ok := v.Tasks.Get(ref); ok {
		return t, nil
	}
	if i := strings.LastIndexByte(ref, '.'); i > 0 {
		svc, ok := v.ServiceByName(ref[:i])
		slot, err := strconv.ParseUint(ref[i+1:], 10, 64)
		if ok && err == nil {
			if t := newest(v.TasksOfSlot(svc.GetId(), slot)); t != nil {
				return t, nil
			}
		}
	}
	return find("task", ref, "swarm task ls", v.Tasks, (*swarmv1.Task).GetId, nil)
}

// newest prefers the task that is to run over history, and the later one among equals.
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

func findImage(v *raftstore.View, ref string) (*swarmv1.Image, error) {
	if img, ok := v.Images.Get(ref); ok {
		return img, nil
	}
	if parsed, err := spec.ParseImage(ref); err == nil && parsed.Digest == "" {
		if img, ok := v.ImageByName(parsed.Name); ok {
			return img, nil
		}
	}
	digest := ref
	if parsed, err := spec.ParseImage(ref); err == nil && parsed.Digest != "" {
		digest = parsed.Digest
	}
	return find("image", ref, "swarm image ls", v.Images, (*swarmv1.Image).GetId, func(i *swarmv1.Image) []string {
		d := strings.TrimPrefix(digest, "sha256:")
		if len(d) >= 8 && strings.HasPrefix(strings.TrimPrefix(i.GetDigest(), "sha256:"), d) {
			return []string{ref}
		}
		return nil
	})
}

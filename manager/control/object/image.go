package object

import (
	"iter"
	"slices"
	"strings"

	"swarm/internal/spec"
	"swarm/internal/task"
	"swarm/manager/control/crud"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Images describes images. Users may refer to an image by its digest too, in hexadecimal digits.
// Several images, each with its own name, may have one digest.
func Images() crud.Kind[*swarmv1.Image] {
	return crud.Kind[*swarmv1.Image]{
		Word: "image", ListCommand: "swarm image ls",
		Table:   func(v *table.View) table.Rows[*swarmv1.Image] { return v.Images },
		TableID: table.Image,
		Name:    func(_ *table.View, i *swarmv1.Image) string { return i.GetName() },
		ByName: func(v *table.View, name string) iter.Seq[*swarmv1.Image] {
			parsed, err := spec.ParseImage(name)
			if err != nil || parsed.Digest != "" {
				return crud.One[*swarmv1.Image](nil, false)
			}
			return crud.One(v.Images.ByName(parsed.Name))
		},
		ByOtherID: func(v *table.View, ref string) iter.Seq[*swarmv1.Image] {
			digest := ref
			if parsed, err := spec.ParseImage(ref); err == nil && parsed.Digest != "" {
				digest = parsed.Digest
			}
			return crud.Where(v.Images.All(), func(i *swarmv1.Image) bool { return hexDigits(i.GetDigest()) == hexDigits(digest) })
		},
		ByOtherPrefix: func(v *table.View, ref string) iter.Seq[*swarmv1.Image] {
			digits := hexDigits(ref)
			return crud.Where(v.Images.All(), func(i *swarmv1.Image) bool {
				return len(digits) >= crud.MinPrefix && strings.HasPrefix(hexDigits(i.GetDigest()), digits)
			})
		},
		Attributes: func(_ *table.View, i *swarmv1.Image) map[string]string {
			return map[string]string{"name": i.GetName(), "digest": i.GetDigest()}
		},
		Subject: func(v *table.View, i *swarmv1.Image) crud.Subject {
			parsed, _ := spec.ParseImage(i.GetName())
			return crud.Subject{
				ID: i.GetId(), Digest: hexDigits(i.GetDigest()), Names: []string{i.GetName(), parsed.Familiar()},
				Nodes: ImageNodes(v, i.GetDigest()),
			}
		},
		Compare: crud.ByName((*swarmv1.Image).GetName),
	}
}

func hexDigits(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

// ImageNodes returns the ids of the nodes that hold a digest and have no permission to remove it.
func ImageNodes(v *table.View, digest string) (ids []string) {
	for c := range v.ImageCopies.Prefix(digest + "/") {
		if !c.GetLeaving() {
			ids = append(ids, c.GetNodeId())
		}
	}
	return ids
}

// ImageNames returns how many names a digest has, and whether one of them was loaded. A registry
// does not have a loaded image.
func ImageNames(v *table.View, digest string) (names int, loaded bool) {
	for img := range v.Images.All() {
		if img.GetDigest() == digest {
			names++
			loaded = loaded || img.GetLoaded()
		}
	}
	return names, loaded
}

// ImageUsers returns the names of the services that need a digest, sorted: for their revision, for
// the one to which a rollback returns, or for a task that has not ended.
func ImageUsers(v *table.View, digest string) []string {
	var out []string
	for svc := range v.Services.All() {
		numbers := []uint64{svc.GetRevision(), svc.GetPreviousRevision()}
		for t := range v.TasksOfService(svc.GetId()) {
			if !task.Terminal(v.Status(t.GetId()).GetState()) {
				numbers = append(numbers, t.GetRevision())
			}
		}
		if slices.ContainsFunc(numbers, func(n uint64) bool { return RunsImage(v, svc.GetId(), n, digest) }) {
			out = append(out, svc.GetName())
		}
	}
	slices.Sort(out)
	return out
}

// RunsImage reports whether a revision of a service is pinned to a digest.
func RunsImage(v *table.View, service string, revision uint64, digest string) bool {
	rev, _ := v.Revision(service, revision)
	return strings.HasSuffix(rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetImage(), "@"+digest)
}

package storage

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/assignment"
	"swarm/worker/engine"
)

var errNoStorage = errdefs.ErrNotImplemented.WithMessage("this node has nothing on its disk, because its containers are simulated")

// Usage implements swarmv1.DiskServer. Only one call at a time measures the disk, because
// containers may have made millions of files. Other calls wait until it has ended.
func (d *Disk) Usage(ctx context.Context, _ *swarmv1.DiskUsageRequest) (*swarmv1.DiskUsageResponse, error) {
	if d.deps.Storage == nil || d.deps.Space == nil {
		return nil, errNoStorage
	}
	select {
	case d.measuring <- struct{}{}:
		defer func() { <-d.measuring }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	space := d.deps.Space.Space()
	out := &swarmv1.DiskUsageResponse{Path: d.deps.Space.Dir(), Total: int64(space.Total), Free: int64(space.Free)}
	held, bytes, err := d.deps.Storage.Holdings(ctx)
	if err != nil {
		return nil, err
	}
	out.ImagesSize = bytes
	for _, h := range held {
		out.Images = append(out.Images, &swarmv1.HeldImage{
			Image: h.Image, Containers: uint32(h.Containers), Since: timestamppb.New(d.lastUse(h)), Labels: h.Labels, Size: h.Size, Unique: h.Unique,
		})
	}
	if out.Containers, err = d.heldContainers(ctx); err != nil {
		return nil, err
	}
	if out.Volumes, err = d.heldVolumes(ctx); err != nil {
		return nil, err
	}
	for _, l := range d.logSizes() {
		log := &swarmv1.HeldLog{TaskId: l.TaskID, Size: l.Bytes}
		if !l.Retired.IsZero() {
			log.Retired = timestamppb.New(l.Retired)
		}
		out.Logs = append(out.Logs, log)
	}
	return out, nil
}

func (d *Disk) heldContainers(ctx context.Context) ([]*swarmv1.HeldContainer, error) {
	found, err := d.deps.Containers.List(ctx)
	if err != nil {
		return nil, err
	}
	sizes, err := d.deps.Storage.ContainerSizes(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]*swarmv1.HeldContainer, len(found))
	for i, f := range found {
		out[i] = &swarmv1.HeldContainer{
			TaskId: f.TaskID, ServiceId: f.ServiceID, Running: f.Running, Dead: d.isDead(f), Size: sizes[f.TaskID],
		}
	}
	return out, nil
}

func (d *Disk) heldVolumes(ctx context.Context) ([]*swarmv1.HeldVolume, error) {
	sizes, err := d.deps.Storage.VolumeSizes(ctx)
	if err != nil {
		return nil, err
	}
	links := map[string]uint32{}
	for _, a := range d.deps.Objects.List(swarmv1.AssignmentRef_TASK) {
		for _, m := range d.deps.Objects.Revision(a.GetTask()).GetSpec().GetTaskTemplate().GetContainerSpec().GetMounts() {
			if m.GetType() == swarmv1.Mount_VOLUME && m.GetSource() != "" {
				links[m.GetSource()]++
			}
		}
	}
	var out []*swarmv1.HeldVolume
	for name, size := range sizes {
		out = append(out, &swarmv1.HeldVolume{Name: name, Size: size, Links: links[name]})
	}
	return out, nil
}

func (d *Disk) logSizes() []engine.LogSize {
	if d.deps.Logs == nil {
		return nil
	}
	return d.deps.Logs.Sizes()
}

// Prune implements swarmv1.DiskServer. It removes the images that the manager names, except those
// that a live task or a container uses.
func (d *Disk) Prune(ctx context.Context, req *swarmv1.DiskPruneRequest) (*swarmv1.DiskPruneResponse, error) {
	out := &swarmv1.DiskPruneResponse{}
	if d.deps.Storage == nil {
		return nil, errNoStorage
	}
	if req.GetContainers() {
		ids, bytes, err := d.removeDead(ctx)
		if err != nil {
			return nil, err
		}
		out.Containers, out.Reclaimed = ids, out.Reclaimed+bytes
	}
	if req.GetLogs() {
		until := time.Now()
		if req.GetUntil() != nil {
			until = req.GetUntil().AsTime()
		}
		for _, l := range d.logSizes() {
			if !l.Retired.IsZero() && l.Retired.Before(until) {
				d.deps.Logs.Discard(l.TaskID)
				out.Logs, out.Reclaimed = append(out.Logs, l.TaskID), out.Reclaimed+l.Bytes
			}
		}
	}
	removed, bytes, err := d.removeImages(ctx, req.GetDigests())
	out.Digests, out.Reclaimed = removed, out.Reclaimed+bytes
	return out, err
}

// removeImages removes the images with these digests, except those that a live task or a container
// of this node uses. It returns how many bytes of the disk this has freed.
func (d *Disk) removeImages(ctx context.Context, digests []string) (removed []string, bytes int64, err error) {
	if len(digests) == 0 {
		return nil, 0, nil
	}
	_, before, err := d.deps.Storage.Holdings(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, digest := range digests {
		if d.usesImage(digest) {
			continue
		}
		switch err := d.deps.Images.Remove(ctx, digest); {
		case err == nil:
			removed = append(removed, digest)
		case !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err):
			return removed, 0, fmt.Errorf("remove image %s: %w", digest, err)
		}
	}
	_, after, err := d.deps.Storage.Holdings(ctx)
	return removed, before - after, err
}

// isDead reports whether a container belongs to no task. It is false until the managers have said
// which tasks there are.
func (d *Disk) isDead(f engine.Found) bool { return d.isSynced() && !d.deps.Tasks.Has(f.TaskID) }

// removeDead removes the containers that belong to no task. It returns their task ids and how many
// bytes they had written.
func (d *Disk) removeDead(ctx context.Context) (ids []string, bytes int64, err error) {
	dead, err := d.deps.Containers.List(ctx)
	if err != nil {
		return nil, 0, err
	}
	dead = slices.DeleteFunc(dead, func(f engine.Found) bool { return !d.isDead(f) })
	if len(dead) == 0 { // The common case. ContainerSizes is slow.
		return nil, 0, nil
	}
	sizes, err := d.deps.Storage.ContainerSizes(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, f := range dead {
		if err := d.deps.Tasks.Remove(ctx, f.TaskID); err != nil {
			return ids, bytes, err
		}
		ids, bytes = append(ids, f.TaskID), bytes+sizes[f.TaskID]
	}
	return ids, bytes, nil
}

// usesImage reports whether a live task of this node has the image.
func (d *Disk) usesImage(digest string) bool {
	return slices.ContainsFunc(d.deps.Objects.List(swarmv1.AssignmentRef_TASK), func(a *swarmv1.Assignment) bool {
		t := a.GetTask()
		_, pinned, _ := strings.Cut(assignment.ContainerSpec(d.deps.Objects.Revision(t)).GetImage(), "@")
		return pinned == digest && d.deps.Tasks.IsLive(t.GetId())
	})
}

// keepsImage reports whether the managers want this node to keep a copy of the image.
func (d *Disk) keepsImage(digest string) bool {
	return slices.ContainsFunc(d.deps.Objects.List(swarmv1.AssignmentRef_IMAGE), func(a *swarmv1.Assignment) bool {
		return a.GetImage().GetDigest() == digest
	})
}

//go:build linux

package containerd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"swarm/worker/containerd/layout"
	"swarm/worker/containerd/ocispec"
	"swarm/worker/engine"
)

// Prepare writes down the container and makes what it needs: two calls to containerd once the image is known. The
// record comes first, because it keeps the snapshot from the garbage collector.
func (r *Runtime) Prepare(ctx context.Context, c engine.Container) error {
	id := c.Task.GetId()
	if err := validID(id); err != nil {
		return err
	}
	if c.Lease != "" && r.cfg.Build == "" {
		return errForeignShim
	}
	ctx = namespaced(ctx)
	if r.started(id) {
		return nil
	}
	if err := r.loadGroups(ctx); err != nil {
		return fmt.Errorf("prepare container %s: %w", id, engine.Away(err))
	}
	err := r.prepare(ctx, c)
	if errors.Is(err, errStaleImage) { // what was known of it is forgotten
		err = r.prepare(ctx, c)
	}
	if err != nil {
		return fmt.Errorf("prepare container %s: %w", id, engine.Away(err))
	}
	return nil
}

// errForeignShim refuses single-writer tasks where only containerd's own shims are at hand: they know of no lease.
var errForeignShim = errdefs.ErrFailedPrecondition.WithMessage(
	"--single-writer needs the containerd that swarm brings: start the daemon of this node without --containerd-address, or keep the service off it with a constraint")

// errStaleImage: an image has been removed since it was looked at.
var errStaleImage = errors.New("the image's snapshot is gone")

func (r *Runtime) prepare(ctx context.Context, c engine.Container) error {
	id := c.Task.GetId()
	img, err := r.images.get(ctx, c.Spec().GetImage(), c.Spec().GetPlatform())
	if err != nil {
		return err
	}
	vols, err := r.planVolumes(c, img)
	if err != nil {
		return err
	}
	created, err := r.record(ctx, c, img, vols)
	if err != nil {
		return err
	}
	err = r.equip(ctx, c, img, vols)
	if err != nil && created {
		if rerr := r.Remove(context.WithoutCancel(ctx), id); rerr != nil {
			r.log.WarnContext(ctx, "what was made of a container remains", "task", id, "err", rerr)
		}
	}
	return err
}

// record creates the container's record; created is false when it was there already.
func (r *Runtime) record(ctx context.Context, c engine.Container, img *image, vols volumes) (created bool, err error) {
	id := c.Task.GetId()
	cgroup := r.cgroup(c)
	group := r.groups.assign(id, c.Task.GetServiceId())
	annotations := map[string]string{layout.GroupAnnotation: group}
	if c.Lease != "" {
		annotations[layout.LeaseAnnotation] = c.Lease
	}
	if err := annotate(annotations, vols.staged); err != nil {
		return false, err
	}
	if err := annotateDefaults(annotations, img.defaults); err != nil {
		return false, err
	}
	spec, err := ocispec.Build(ocispec.Input{
		Container:   r.withEtc(c),
		Image:       img.config,
		Accounts:    img.accounts,
		Host:        r.host(),
		Volumes:     vols.mounts,
		Anonymous:   vols.anonymous,
		Files:       r.filePaths(c),
		Cgroup:      cgroup,
		Init:        r.cfg.Init,
		Annotations: annotations,
	})
	if err != nil {
		r.groups.forget(id)
		return false, err
	}
	packed, err := encodeSpec(spec)
	if err != nil {
		return false, err
	}
	labels := map[string]string{
		labelOwner:   r.cfg.StateDir,
		labelTask:    id,
		labelService: c.Task.GetServiceId(),
		labelNode:    c.Node.ID,
		labelGroup:   group,
		labelCgroup:  cgroup,
		labelLogs:    c.LogDir,
	}
	if c.Spec().GetOpenStdin() {
		labels[labelStdin] = "open"
	}
	if s := cmp.Or(c.Spec().GetStopSignal(), img.config.StopSignal); s != "" {
		labels[labelSignal] = s
	}
	_, err = r.client.ContainerService().Create(ctx, containers.Container{
		ID:          id,
		Labels:      labels,
		Image:       img.name,
		Runtime:     containers.RuntimeInfo{Name: layout.RuntimeName, Options: r.options},
		Spec:        packed,
		SnapshotKey: id,
		Snapshotter: r.cfg.Snapshotter,
	})
	if errdefs.IsAlreadyExists(err) {
		return false, nil
	}
	return err == nil, err
}

// equip makes the container's file system, files and volumes.
func (r *Runtime) equip(ctx context.Context, c engine.Container, img *image, vols volumes) error {
	if err := r.writeFiles(c, img.accounts); err != nil {
		return err
	}
	if err := r.writeEtc(c); err != nil {
		return fmt.Errorf("files of its /etc: %w", err)
	}
	sn := r.client.SnapshotService(r.cfg.Snapshotter)
	rootfs, err := sn.Prepare(ctx, c.Task.GetId(), img.chain)
	switch {
	case errdefs.IsAlreadyExists(err):
		rootfs, err = sn.Mounts(ctx, c.Task.GetId())
	case errdefs.IsNotFound(err):
		r.images.forget(img)
		return errStaleImage
	}
	if err != nil {
		return fmt.Errorf("file system: %w", err)
	}
	if err := r.makeVolumes(ctx, vols, rootfs); err != nil {
		return err
	}
	r.remember(c.Task.GetId(), prepared{
		service:  c.Task.GetServiceId(),
		rootfs:   rootfs,
		logs:     c.LogDir,
		terminal: c.Spec().GetTty(),
		stdin:    c.Spec().GetOpenStdin(),
		staged:   vols.staged,
	})
	return nil
}

// cgroup is where a container's processes are accounted: for systemd "slice:prefix:name", from which runc makes the scope
// prefix-name.scope.
func (r *Runtime) cgroup(c engine.Container) string {
	parent, id := cmp.Or(c.CgroupParent, r.cfg.CgroupParent), c.Task.GetId()
	if r.cfg.SystemdCgroup {
		return parent + ":swarm:" + id
	}
	return path.Join("/", parent, id)
}

// loadGroups takes over the shims of an earlier process, once.
func (r *Runtime) loadGroups(ctx context.Context) error {
	return r.groups.load(func() ([]member, error) {
		owned, err := r.owned(ctx)
		if err != nil {
			return nil, fmt.Errorf("containers of before: %w", err)
		}
		members := make([]member, len(owned))
		for i, c := range owned {
			members[i] = member{task: c.ID, service: c.Labels[labelService], group: c.Labels[labelGroup], started: r.started(c.ID)}
		}
		return members, nil
	})
}

// regroup writes another shim group into a container's record.
func (r *Runtime) regroup(ctx context.Context, id, group string) error {
	store := r.client.ContainerService()
	c, err := store.Get(ctx, id)
	if err != nil {
		return err
	}
	spec, err := decodeSpec(c)
	if err != nil {
		return err
	}
	if spec.Annotations == nil {
		spec.Annotations = make(map[string]string, 1)
	}
	spec.Annotations[layout.GroupAnnotation] = group
	if c.Spec, err = encodeSpec(spec); err != nil {
		return err
	}
	c.Labels[labelGroup] = group
	_, err = store.Update(ctx, c, "spec", "labels."+labelGroup)
	return err
}

// decodeSpec reads the OCI spec in a container's record.
func decodeSpec(c containers.Container) (*specs.Spec, error) {
	spec := new(specs.Spec)
	if err := json.Unmarshal(c.Spec.GetValue(), spec); err != nil {
		return nil, fmt.Errorf("decode its spec: %w", err)
	}
	return spec, nil
}

func encodeSpec(spec *specs.Spec) (typeurl.Any, error) {
	packed, err := typeurl.MarshalAny(spec)
	if err != nil {
		return nil, fmt.Errorf("encode its spec: %w", err)
	}
	return packed, nil
}

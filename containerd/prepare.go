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

	"swarm/containerd/imagecache"
	"swarm/containerd/layout"
	"swarm/containerd/ocispec"
	"swarm/containerd/shimgroup"
	"swarm/containerd/volume"
	"swarm/worker/engine"
)

// Prepare creates the container's record in containerd, and then its file system, volumes and
// files. It makes two calls to containerd if the image is in the cache. The record comes first,
// because it protects the snapshot from the garbage collector. A repeated call changes nothing.
//
// ErrNotFound: this node does not hold the image. ErrInvalidArgument: the container cannot be made
// as the service asks. ErrRuntimeAway: containerd does not answer, which is transient.
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
		return fmt.Errorf("prepare the container: %w", engine.Away(err))
	}
	err := r.prepare(ctx, c)
	if errors.Is(err, errStaleImage) { // The cache has forgotten the image, so a second call reads it again.
		err = r.prepare(ctx, c)
	}
	if err != nil {
		return fmt.Errorf("prepare the container: %w", engine.Away(err))
	}
	return nil
}

// errForeignShim is the error for single-writer tasks on a node whose shims are not swarm's, and
// therefore know no lease.
var errForeignShim = errdefs.ErrFailedPrecondition.WithMessage(
	"--single-writer needs the containerd that swarm brings: start the daemon of this node without --containerd-address, or keep the service off it with a constraint")

// errStaleImage says that an image was removed after it was put into the cache.
var errStaleImage = errors.New("the image's snapshot is gone")

func (r *Runtime) prepare(ctx context.Context, c engine.Container) error {
	id := c.Task.GetId()
	img, err := r.images.Get(ctx, c.Spec().GetImage(), c.Spec().GetPlatform())
	if err != nil {
		return err
	}
	vols, err := r.volumes.Plan(id, c.Spec().GetMounts(), img.Config.Volumes)
	if err != nil {
		return err
	}
	created, err := r.createRecord(ctx, c, img, vols)
	if err != nil {
		return err
	}
	err = r.createFiles(ctx, c, img, vols)
	if err != nil && created {
		if rerr := r.Remove(context.WithoutCancel(ctx), id); rerr != nil {
			r.log.WarnContext(ctx, "container that could not be prepared was not removed", "task", id, "err", rerr)
		}
	}
	return err
}

// createRecord creates the container's record in containerd. created is false if the record exists
// already.
func (r *Runtime) createRecord(ctx context.Context, c engine.Container, img *imagecache.Image, vols volume.Plan) (created bool, err error) {
	id := c.Task.GetId()
	cgroup := r.cgroup(c)
	group := r.groups.Assign(id, c.Task.GetServiceId())
	annotations := map[string]string{layout.GroupAnnotation: group}
	if c.Lease != "" {
		annotations[layout.LeaseAnnotation] = c.Lease
	}
	if err := volume.Annotate(annotations, vols.Staged); err != nil {
		return false, err
	}
	if err := annotateDefaults(annotations, img.Defaults); err != nil {
		return false, err
	}
	spec, err := ocispec.Build(ocispec.Input{
		Container:   r.withEtc(c),
		Image:       img.Config,
		Accounts:    img.Accounts,
		Host:        r.host(),
		Volumes:     vols.Mounts,
		Anonymous:   vols.Anonymous,
		Files:       r.fileMounts(c),
		Cgroup:      cgroup,
		Init:        r.cfg.Init,
		Annotations: annotations,
	})
	if err != nil {
		r.groups.Forget(id)
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
	if s := cmp.Or(c.Spec().GetStopSignal(), img.Config.StopSignal); s != "" {
		labels[labelSignal] = s
	}
	_, err = r.client.ContainerService().Create(ctx, containers.Container{
		ID:          id,
		Labels:      labels,
		Image:       img.Name,
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

// createFiles makes everything of the container outside its record: its secrets and configs, the
// files of its /etc, its snapshot and its volumes.
func (r *Runtime) createFiles(ctx context.Context, c engine.Container, img *imagecache.Image, vols volume.Plan) error {
	if err := r.writeFiles(c, img.Accounts); err != nil {
		return err
	}
	if err := r.writeEtc(c); err != nil {
		return fmt.Errorf("files of its /etc: %w", err)
	}
	sn := r.client.SnapshotService(r.cfg.Snapshotter)
	rootfs, err := sn.Prepare(ctx, c.Task.GetId(), img.Chain)
	switch {
	case errdefs.IsAlreadyExists(err):
		rootfs, err = sn.Mounts(ctx, c.Task.GetId())
	case errdefs.IsNotFound(err):
		r.images.Forget(img)
		return errStaleImage
	}
	if err != nil {
		return fmt.Errorf("file system: %w", err)
	}
	if err := r.volumes.Make(ctx, c.Task.GetId(), vols, rootfs); err != nil {
		return err
	}
	r.remember(c.Task.GetId(), prepared{
		service:  c.Task.GetServiceId(),
		rootfs:   rootfs,
		logs:     c.LogDir,
		terminal: c.Spec().GetTty(),
		stdin:    c.Spec().GetOpenStdin(),
		staged:   vols.Staged,
	})
	return nil
}

// cgroup returns the path of a container's cgroup, or with systemd "slice:prefix:name", from which
// runc makes the scope prefix-name.scope.
func (r *Runtime) cgroup(c engine.Container) string {
	return r.cgroupIn(cmp.Or(c.CgroupParent, r.cfg.CgroupParent), c.Task.GetId())
}

func (r *Runtime) cgroupIn(parent, id string) string {
	if r.cfg.SystemdCgroup {
		return parent + ":swarm:" + id
	}
	return path.Join("/", parent, id)
}

// loadGroups makes the table of shim groups take over the groups of an earlier process. Only the
// first call that succeeds has an effect.
func (r *Runtime) loadGroups(ctx context.Context) error {
	return r.groups.Load(func() ([]shimgroup.Member, error) {
		owned, err := r.owned(ctx)
		if err != nil {
			return nil, fmt.Errorf("list containers of an earlier daemon: %w", err)
		}
		members := make([]shimgroup.Member, len(owned))
		for i, c := range owned {
			members[i] = shimgroup.Member{Task: c.ID, Service: c.Labels[labelService], Group: c.Labels[labelGroup], Started: r.started(c.ID)}
		}
		return members, nil
	})
}

// regroup changes the shim group in a container's record.
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

package tasks

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"

	"github.com/containerd/errdefs"

	"swarm/internal/private"
	"swarm/internal/publish"
	"swarm/internal/template"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/assignment"
	"swarm/worker/engine"
)

// inputs are the assigned objects that a task is made of.
type inputs struct {
	task       *swarmv1.Task
	revision   *swarmv1.Revision // templates expanded
	attachment engine.Attachment
	files      []engine.File
}

// inputsOf collects the objects that a task names, and waits for those that are missing. Managers
// send them before the task, but after a restart of the daemon the secrets and configs come only
// with the first message of a session.
func (r *Runner) inputsOf(ctx context.Context, t *swarmv1.Task) (*inputs, error) {
	for {
		changed := r.deps.Objects.Changed()
		in, err := r.gather(t)
		if !errdefs.IsNotFound(err) {
			return in, err
		}
		r.deps.Log.Debug("task waits for its objects", "task", t.Id, "err", err)
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// gather collects the objects that a task names. It returns ErrNotFound while one is missing, and
// ErrInvalidArgument if the task can never run.
func (r *Runner) gather(t *swarmv1.Task) (*inputs, error) {
	raw := r.deps.Objects.Revision(t)
	if raw == nil {
		return nil, fmt.Errorf("revision %s: %w", assignment.NumberedID(t.ServiceId, t.Revision), errdefs.ErrNotFound)
	}
	rev, err := template.Expand(raw, t, r.templateNode())
	if err != nil {
		return nil, err
	}
	for _, n := range t.Networks {
		if r.network(n.NetworkId) == nil {
			return nil, fmt.Errorf("network %s: %w", n.NetworkId, errdefs.ErrNotFound)
		}
	}
	rev = r.withVolumes(rev)
	files, err := r.filesOf(t, rev)
	if err != nil {
		return nil, err
	}
	return &inputs{task: t, revision: rev, attachment: r.attachment(t, rev), files: files}, nil
}

// templateNode returns what templates see of this node.
func (r *Runner) templateNode() template.Node {
	return template.Node{ID: r.cfg.NodeID, Hostname: r.deps.Hostname(), OS: r.cfg.OS, Arch: r.cfg.Arch}
}

// network returns an assigned network, or one of the three networks that every node has (host,
// none, bridge). It returns nil for any other id.
func (r *Runner) network(id string) *swarmv1.Network {
	if n := r.deps.Objects.Get(swarmv1.AssignmentRef_NETWORK, id).GetNetwork(); n != nil {
		return n
	}
	if id == engine.DriverHost || id == engine.DriverNone || id == engine.DriverBridge {
		return &swarmv1.Network{Id: id, Spec: &swarmv1.NetworkSpec{Name: id, DriverConfig: &swarmv1.Driver{Name: id}}}
	}
	return nil
}

// attachment returns what the task needs of the network. As in Docker, a task that names no network
// is on the node's bridge.
func (r *Runner) attachment(t *swarmv1.Task, rev *swarmv1.Revision) engine.Attachment {
	a := engine.Attachment{
		TaskID: t.Id, ServiceID: t.ServiceId, Upstreams: assignment.ContainerSpec(rev).GetDnsConfig().GetNameservers(),
		SearchFirst: searchFirst(assignment.ContainerSpec(rev)),
	}
	for _, use := range t.Networks {
		if n := r.network(use.NetworkId); n != nil {
			a.Networks = append(a.Networks, engine.NetworkUse{Network: n, Use: use})
		}
	}
	if len(t.Networks) == 0 {
		a.Networks = []engine.NetworkUse{{Network: r.network(engine.DriverBridge), Use: &swarmv1.NetworkAttachment{NetworkId: engine.DriverBridge}}}
	}
	for _, p := range rev.GetSpec().GetEndpointSpec().GetPorts() {
		if !publish.ByMesh(p) {
			a.Ports = append(a.Ports, p)
		}
	}
	return a
}

func onHost(a engine.Attachment) bool {
	return slices.ContainsFunc(a.Networks, func(u engine.NetworkUse) bool { return u.Driver() == engine.DriverHost })
}

// containerOf writes the small files of the task, makes the folder for its log, and returns the
// container for Runtime.Prepare.
func (r *Runner) containerOf(in *inputs, attached engine.Attached) (engine.Container, error) {
	c := engine.Container{
		Task: in.task, Revision: in.revision, Netns: attached.Netns, Files: in.files, CgroupParent: r.cfg.CgroupParent,
		Node: engine.NodeInfo{ID: r.cfg.NodeID, Hostname: r.deps.Hostname(), OS: r.cfg.OS, Arch: r.cfg.Arch},
	}
	if in.revision.GetSpec().GetSingleWriter() {
		file, err := r.deps.LeaseFile()
		if err != nil {
			return engine.Container{}, err
		}
		c.Lease = file
	}
	spec := c.Spec()
	host := onHost(in.attachment)
	c.Hostname = spec.Hostname
	switch {
	case c.Hostname != "":
	case host:
		c.Hostname = r.cfg.Hostname
	default:
		c.Hostname = in.task.Id[:min(12, len(in.task.Id))]
	}
	if err := r.writeFiles(&c, attached, host); err != nil {
		return c, fmt.Errorf("write files of task %s: %w", in.task.Id, err)
	}
	if r.deps.Logs != nil {
		dir, err := r.deps.Logs.Create(in.task, in.revision)
		if err != nil {
			return c, err
		}
		c.LogDir = dir
	}
	return c, nil
}

func (r *Runner) writeFiles(c *engine.Container, attached engine.Attached, host bool) error {
	dir := path.Join(r.cfg.Dir, c.Task.Id)
	if err := private.Folder(dir); err != nil {
		return err
	}
	f := etc{spec: c.Spec(), hostname: c.Hostname, attached: attached, host: host}
	for _, e := range []struct {
		path *string
		name string
		text func() string
	}{
		{&c.ResolvConf, "resolv.conf", f.resolvConf},
		{&c.HostsFile, "hosts", f.hosts},
		{&c.HostnameFile, "hostname", func() string { return f.hostname + "\n" }},
	} {
		*e.path = path.Join(dir, e.name)
		if err := os.WriteFile(*e.path, []byte(e.text()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

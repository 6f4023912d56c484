//go:build linux

package dev

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"swarm/internal/durable"
	"swarm/overlay/hostnet"
)

// Playground is a handle for a cluster of hosts. The cluster outlives the handle and the process.
type Playground struct {
	name string
}

// Up makes the hosts, starts a daemon in each, and makes them a cluster: it runs init on the first
// host and join on the others. If it fails, it removes the playground, unless o.KeepFailed is set.
func Up(ctx context.Context, o Options) (*Playground, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if os.Getuid() != 0 {
		return nil, errdefs.ErrPermissionDenied.WithMessage("hosts are network namespaces, which only root can make: run with sudo")
	}
	if err := removeLeftover(ctx, o); err != nil {
		return nil, fmt.Errorf("playground %s: %w", o.Name, err)
	}
	unlock, err := lock(runDir(o.Name))
	if err != nil {
		return nil, err
	}
	defer unlock()
	r, err := claim(o)
	if err != nil {
		return nil, fmt.Errorf("playground %s: %w", o.Name, err)
	}
	if err := raise(ctx, r, o); err != nil {
		err = fmt.Errorf("playground %s: %w", o.Name, err)
		if !o.KeepFailed {
			err = errors.Join(err, remove(context.WithoutCancel(ctx), r))
		}
		return nil, err
	}
	return &Playground{name: o.Name}, nil
}

// removeLeftover removes what a crash has left under this name. If there is a record, the
// playground exists: removeLeftover removes nothing, and Up returns an error later.
func removeLeftover(ctx context.Context, o Options) error {
	unlock, err := lock(runDir(o.Name))
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(recordPath(o.Name)); err == nil {
		return nil
	}
	// The removal includes the folder with the lock, which another process may take from then on.
	return remove(ctx, leftover(o.Name, o.Root))
}

// claim reserves the name, the root folder and a subnet, and makes the switch.
func claim(o Options) (*record, error) {
	if _, err := os.Lstat(recordPath(o.Name)); err == nil {
		return nil, errdefs.ErrAlreadyExists.WithMessage("it is up already: remove it with `swarm dev down" + nameFlag(o.Name) + "`")
	}
	root, err := claimRoot(o)
	if err != nil {
		return nil, err
	}
	unlock, err := lock(runRoot)
	if err != nil {
		return nil, err
	}
	defer unlock()
	subnet, err := chooseSubnet(o.Subnet)
	if err != nil {
		return nil, err
	}
	r := &record{
		Name: o.Name, Root: root, Subnet: subnet, MTU: o.MTU, IPv6: o.IPv6, Advertise6: o.Advertise6, Disk: o.Disk,
		Binary: o.Binary, DaemonArgs: o.DaemonArgs, Env: o.Env,
	}
	for i := range o.Nodes {
		h := hostRecord{Name: fmt.Sprintf("node%d", i+1), Off: true, Simulated: i >= o.Nodes-o.Simulated}
		h.Address = hostnet.Nth(subnet, uint32(hostOffset+i+1))
		switch {
		case o.NoCluster:
		case i < o.Managers:
			h.Role = Manager
		default:
			h.Role = Worker
		}
		r.Hosts = append(r.Hosts, h)
	}
	if err := r.save(); err != nil {
		return nil, err
	}
	// The route to the hosts shows other processes that the subnet is in use.
	_, err = NewLab(LabConfig{Dir: r.pinDir(), Name: r.Name, Subnet: r.Subnet, MTU: r.MTU, IPv6: r.IPv6})
	if err != nil {
		return nil, errors.Join(err, remove(context.Background(), r))
	}
	return r, nil
}

func claimRoot(o Options) (string, error) {
	if err := makeAll(o.Root); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(o.Root)
	if err != nil {
		return "", err
	}
	if len(entries) > 0 {
		return "", errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("root folder %s is not empty: name another", o.Root))
	}
	if err := durable.WriteFile(filepath.Join(o.Root, marker), []byte(o.Name+"\n"), 0o600); err != nil {
		return "", err
	}
	// The mount table has paths without symbolic links.
	return filepath.EvalSymlinks(o.Root)
}

func raise(ctx context.Context, r *record, o Options) error {
	lab, err := r.lab()
	if err != nil {
		return err
	}
	o.Progress(fmt.Sprintf("%d hosts on %s; this machine is %s there", len(r.Hosts), r.Subnet, lab.MachineAddress()))
	for i := range r.Hosts {
		if err := r.powerOn(lab, &r.Hosts[i]); err != nil {
			return err
		}
		if err := r.save(); err != nil {
			return err
		}
	}
	for i := range r.Hosts {
		h := &r.Hosts[i]
		if err := r.waitReady(ctx, h, o.StartTimeout); err != nil {
			return err
		}
		o.Progress(fmt.Sprintf("%s: daemon is up, process %d, %s", h.Name, h.Daemon.PID, h.Address))
	}
	if o.NoCluster {
		return nil
	}
	return r.cluster(ctx, o)
}

// cluster runs init on the first host and join on the others. Managers join one after the other,
// because each changes the voters; workers join at the same time.
func (r *record) cluster(ctx context.Context, o Options) error {
	first := &r.Hosts[0]
	if _, err := r.client(ctx, o, first, append([]string{"init", "--advertise-addr", r.advertised(first).String()}, o.InitArgs...)...); err != nil {
		return err
	}
	o.Progress(first.Name + ": cluster initialised")
	tokens := make(map[Role]string)
	for _, role := range []Role{Manager, Worker} {
		token, err := r.client(ctx, o, first, "join-token", "-q", string(role))
		if err != nil {
			return err
		}
		tokens[role] = token
	}
	join := func(ctx context.Context, h *hostRecord) error {
		args := []string{"join", "--token", tokens[h.Role], "--advertise-addr", r.advertised(h).String()}
		args = append(args, o.JoinArgs...)
		target := netip.AddrPortFrom(r.advertised(first), controlPort).String()
		if _, err := r.client(ctx, o, h, append(args, target)...); err != nil {
			return err
		}
		return nil
	}
	for i := 1; i < o.Managers; i++ {
		if err := join(ctx, &r.Hosts[i]); err != nil {
			return err
		}
		o.Progress(r.Hosts[i].Name + ": joined as manager")
	}
	g, ctx := errgroup.WithContext(ctx)
	for i := o.Managers; i < len(r.Hosts); i++ {
		g.Go(func() error { return join(ctx, &r.Hosts[i]) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if n := len(r.Hosts) - o.Managers; n > 0 {
		o.Progress(fmt.Sprintf("%d more joined as workers", n))
	}
	return nil
}

// Open returns the handle of a playground. The error is ErrNotFound if there is none of that name.
func Open(name string) (*Playground, error) {
	if name == "" {
		name = defaultName
	}
	if err := validName(name); err != nil {
		return nil, err
	}
	if _, err := load(name); err != nil {
		return nil, err
	}
	return &Playground{name: name}, nil
}

// List returns the names of the playgrounds on this machine.
func List() ([]string, error) {
	paths, err := filepath.Glob(recordPath("*"))
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(paths))
	for _, p := range paths {
		names = append(names, filepath.Base(filepath.Dir(p)))
	}
	slices.Sort(names)
	return names, nil
}

// Down ends and removes everything of a playground: processes, containers, mounts, cgroups,
// namespaces, interfaces and files. It also removes what a crash or a reboot has left, and does
// nothing if there is no such playground.
func Down(ctx context.Context, name string) error {
	if name == "" {
		name = defaultName
	}
	if err := validName(name); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("only root can remove playground %s: run with sudo", name))
	}
	unlock, err := lock(runDir(name))
	if err != nil {
		return err
	}
	defer unlock()
	r, err := load(name)
	if err != nil {
		r = leftover(name, filepath.Join(stateRoot, name))
	}
	if err := remove(ctx, r); err != nil {
		return fmt.Errorf("remove playground %s: %w", name, err)
	}
	return nil
}

// leftover returns a record that replaces a lost one, so that remove can use it. remove looks for
// the remains on the machine and not in the record. The subnet only makes the record valid.
func leftover(name, root string) *record {
	return &record{Name: name, Root: root, Subnet: netip.MustParsePrefix("10.213.0.0/24")}
}

// remove is Down while the lock is held.
func remove(ctx context.Context, r *record) error {
	lab, err := r.lab()
	if err != nil {
		return err
	}
	s := r.wholeScope()
	if err := s.Sweep(ctx); err != nil {
		return err
	}
	if err := lab.Close(); err != nil {
		return err
	}
	if err := s.removeFiles(); err != nil {
		return err
	}
	unlock, err := lock(runRoot)
	if err != nil {
		return err
	}
	defer unlock()
	for _, dir := range []string{runRoot, stateRoot} {
		// The folder may have the folders of other playgrounds, so remove it only if it is empty.
		_ = os.Remove(dir)
	}
	return nil
}

//go:build linux

// Package fabric connects tasks to overlay networks. On each host each network has a bridge, to
// which the tasks of this host are attached, and a VXLAN device that leads to the hosts of the
// other tasks.
//
// The package owns one network namespace for each network that has a task on this host. The
// namespace is pinned in Config.PinDir under the id of the network. It holds the bridge, the VXLAN
// device with the entries for other hosts, and the cables (veth pairs) of the tasks. Because each
// network has a namespace, two networks may have the same subnet, and deleting the namespace
// removes the whole network. The first task on a network creates the namespace, and the last one
// removes it.
//
// The kernel has the only copy of the state of this host. After a restart the caller passes the
// attachments of the tasks to Restore, which compares them with the kernel. The devices do not
// learn addresses from traffic: the caller says on which host each address is (Sync, Update). The
// package does not choose addresses, and knows neither services nor names. Its caller is
// overlay/plane. The package starts no goroutines.
package fabric

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"swarm/overlay/netns"
)

// Config is the configuration of a Fabric.
type Config struct {
	// PinDir is the folder of the pinned namespaces, one for each network in use, named by its id.
	// Required.
	PinDir string
	// Port is the UDP port of VXLAN packets; default 4789.
	Port uint16
	// Underlay is the address to which other hosts send VXLAN packets. Required.
	Underlay netip.Addr
	// MTU is the MTU of a network whose Network.MTU is 0, in bytes. The default is the MTU of the
	// underlay minus the headers of VXLAN.
	MTU int
}

// Deps are the live objects that a Fabric uses.
type Deps struct {
	Log *slog.Logger
}

// Network is an overlay network.
type Network struct {
	ID string
	// VNI is the VXLAN network identifier, 1 to 1<<24 - 1. The cluster allocates VNIs from 65536
	// and leaves lower ones to other programs.
	VNI uint32
	// MTU is the MTU of the interfaces on the network in bytes; 0 means Config.MTU. If the underlay
	// carries only smaller packets, the interfaces get the largest MTU that it can carry.
	MTU int
}

// Attachment is the connection of a task to a network.
type Attachment struct {
	TaskID  string
	Network Network
	// Netns is the path of the pinned network namespace of the task, and Interface the name of its
	// interface there.
	Netns     string
	Interface string
	// Addresses has at least one address, and at most one of each family. The hardware address
	// derives from the first.
	Addresses []netip.Prefix
}

// Endpoint is a task on another host.
type Endpoint struct {
	TaskID string
	// Addresses has at least one address, and at most one of each family. The order must be that of
	// Attachment.Addresses on the task's host, because the hardware address derives from the first.
	Addresses []netip.Addr
	// Host is the underlay address of the task's host.
	Host netip.Addr
}

// Fabric manages all overlay networks of this host. It is safe for concurrent use.
type Fabric struct {
	cfg Config
	log *slog.Logger

	// sem is held during each operation. It is a channel, so that waiting for it ends with the
	// context of the caller.
	sem chan struct{}
	// The fields below are guarded by sem.
	host     *host
	networks map[string]*network // the networks that are in use on this host, by id
	// remote has the tasks on other hosts, by network id. It also has networks that are not in use
	// on this host, but none without such tasks.
	remote map[string]*remoteTasks
}

// host is the network namespace of the underlay.
type host struct {
	ns *netns.Namespace
	h  *netlink.Handle
}

// New returns a Fabric without networks. It changes nothing on the host. It returns
// ErrInvalidArgument if a required field of cfg is missing.
func New(cfg Config, deps Deps) (*Fabric, error) {
	if cfg.Port == 0 {
		cfg.Port = 4789
	}
	switch {
	case cfg.PinDir == "":
		return nil, fmt.Errorf("overlay networks: PinDir is empty: %w", errdefs.ErrInvalidArgument)
	case !cfg.Underlay.IsValid() || cfg.Underlay.IsUnspecified():
		return nil, fmt.Errorf("overlay networks: other hosts cannot send to the underlay address %q: %w", cfg.Underlay, errdefs.ErrInvalidArgument)
	}
	cfg.Underlay = cfg.Underlay.Unmap()
	return &Fabric{
		cfg: cfg, log: deps.Log, sem: make(chan struct{}, 1),
		networks: make(map[string]*network), remote: make(map[string]*remoteTasks),
	}, nil
}

// acquire waits for sem. The caller must call release.
func (f *Fabric) acquire(ctx context.Context) (release func(), err error) {
	select {
	case f.sem <- struct{}{}:
		return func() { <-f.sem }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// validate returns ErrInvalidArgument if a field is missing or out of range.
func (a Attachment) validate() error {
	switch {
	case !validID(a.TaskID) || !validID(a.Network.ID):
		return fmt.Errorf("attach task %q to network %q: invalid id: %w", a.TaskID, a.Network.ID, errdefs.ErrInvalidArgument)
	case a.Network.VNI == 0 || a.Network.VNI >= 1<<24:
		return fmt.Errorf("network %s: VNI %d, want 1 to 16777215: %w", a.Network.ID, a.Network.VNI, errdefs.ErrInvalidArgument)
	case len(a.Addresses) == 0 || a.Interface == "" || a.Netns == "":
		return fmt.Errorf("attach task %s to network %s: address, interface or namespace is missing: %w", a.TaskID, a.Network.ID, errdefs.ErrInvalidArgument)
	}
	return nil
}

// validID reports whether an id can be the name of a file.
func validID(id string) bool {
	return id != "" && !strings.HasPrefix(id, ".") && !strings.Contains(id, "/")
}

// Attach connects a task to a network. If no task of this host is on the network yet, Attach
// creates the network here. If the connection is complete already, Attach changes nothing. After an
// error the task is not attached. Attach returns ErrInvalidArgument for an invalid attachment.
func (f *Fabric) Attach(ctx context.Context, a Attachment) error {
	if err := a.validate(); err != nil {
		return err
	}
	release, err := f.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := f.attach(ctx, a); err != nil {
		return errors.Join(fmt.Errorf("attach task %s to network %s: %w", a.TaskID, a.Network.ID, err), f.detach(a.Network.ID, a.TaskID))
	}
	return nil
}

// attach is Attach for a valid attachment. The caller holds sem.
func (f *Fabric) attach(ctx context.Context, a Attachment) error {
	n, err := f.network(ctx, a.Network)
	if err != nil {
		return err
	}
	return n.attach(a)
}

// network returns the network with the id of want. If this process has not opened the network yet,
// network creates it or takes over the namespace of an earlier process.
func (f *Fabric) network(ctx context.Context, want Network) (*network, error) {
	if n, ok := f.networks[want.ID]; ok {
		return n, nil
	}
	if err := f.openHost(); err != nil {
		return nil, err
	}
	n, err := f.open(ctx, want)
	if err != nil {
		return nil, err
	}
	f.networks[want.ID] = n
	if remote, ok := f.remote[want.ID]; ok {
		return n, n.setRemote(remote)
	}
	return n, nil
}

// Detach disconnects a task from all its networks. It removes each network on which no other task
// of this host is. It returns nil if the task is on no network.
func (f *Fabric) Detach(ctx context.Context, taskID string) error {
	release, err := f.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	var errs []error
	for id, n := range f.networks {
		if _, ok := n.attachments[taskID]; ok {
			errs = append(errs, f.detach(id, taskID))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach task %s: %w", taskID, err)
	}
	return nil
}

// detach disconnects a task from one network.
func (f *Fabric) detach(networkID, taskID string) error {
	n, ok := f.networks[networkID]
	if !ok {
		return nil
	}
	err := n.detach(taskID)
	if len(n.attachments) > 0 {
		return errors.Join(err, n.writeEntries())
	}
	// The rest of the cable is removed with the network.
	delete(f.networks, networkID)
	return f.remove(networkID, n)
}

// Sync tells the fabric on which host each remote task of a network is. endpoints must have all
// tasks of the network that are on other hosts. Sync writes only the entries that have changed. If
// no task of this host is on the network, Sync stores the endpoints, and Attach of the first task
// writes them. If a task that is attached on this host has the address of an endpoint, frames to
// that address stay on this host.
func (f *Fabric) Sync(ctx context.Context, networkID string, endpoints []Endpoint) error {
	return f.setRemote(ctx, networkID, endpoints, func() (*remoteTasks, []Endpoint, bool) {
		return newRemoteTasks(endpoints), nil, true
	})
}

// Update changes what the last Sync set. placed has the endpoints that are new or have moved to
// another host or address. gone has the ids of tasks that are on no other host any more. The cost
// of a call does not depend on the number of other tasks. After an error the caller repeats the
// call, or calls Sync.
func (f *Fabric) Update(ctx context.Context, networkID string, placed []Endpoint, gone []string) error {
	return f.setRemote(ctx, networkID, placed, func() (*remoteTasks, []Endpoint, bool) {
		m, ok := f.remote[networkID]
		if !ok {
			m = newRemoteTasks(nil)
		}
		changed, all := m.apply(placed, gone)
		return m, changed, all
	})
}

// setRemote validates endpoints, stores the remote tasks that edit returns, and writes their
// entries to the kernel. edit runs with sem held. It also returns the endpoints whose entries may
// differ from those in the kernel, or all = true if any entry may differ.
func (f *Fabric) setRemote(ctx context.Context, networkID string, endpoints []Endpoint, edit func() (m *remoteTasks, changed []Endpoint, all bool)) error {
	for _, e := range endpoints {
		if err := e.validate(); err != nil {
			return fmt.Errorf("network %s: %w", networkID, err)
		}
	}
	release, err := f.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	m, changed, all := edit()
	if len(m.all) == 0 {
		delete(f.remote, networkID)
	} else {
		f.remote[networkID] = m
	}
	n, ok := f.networks[networkID]
	if !ok {
		return nil
	}
	if all || n.remote != m {
		err = n.setRemote(m)
	} else {
		err = n.updateRemote(changed)
	}
	if err != nil {
		return fmt.Errorf("network %s: %w", networkID, err)
	}
	return nil
}

// Restore takes over the networks of an earlier process. The caller calls it once, before any
// Attach, with the attachments of all tasks of this host. Restore repairs attachments that are not
// complete, and removes everything else that the earlier process left. It does not interrupt the
// traffic of a task whose attachments are complete. The entries for other hosts stay as they are
// until the next Sync. Restore logs and detaches an attachment that it cannot repair. It returns
// ErrFailedPrecondition if this process has attached tasks already.
func (f *Fabric) Restore(ctx context.Context, keep []Attachment) error {
	for _, a := range keep {
		if err := a.validate(); err != nil {
			return err
		}
	}
	release, err := f.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if len(f.networks) > 0 {
		return fmt.Errorf("restore the overlay networks: networks are in use already: %w", errdefs.ErrFailedPrecondition)
	}
	if err := f.openHost(); err != nil {
		return err
	}
	errs := []error{f.removeUnused(keep)}
	for _, a := range keep {
		if err := f.attach(ctx, a); err != nil {
			f.log.Error("overlay networks: cannot restore the attachment of a task, detach it", "task", a.TaskID, "network", a.Network.ID,
				"err", errors.Join(err, f.detach(a.Network.ID, a.TaskID)))
		}
	}
	for _, n := range f.networks {
		errs = append(errs, n.removeUnusedCables())
	}
	return errors.Join(errs...)
}

// removeUnused removes the networks that no attachment in keep is on.
func (f *Fabric) removeUnused(keep []Attachment) error {
	ids, err := f.pinned()
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		if slices.ContainsFunc(keep, func(a Attachment) bool { return a.Network.ID == id }) {
			continue
		}
		errs = append(errs, f.remove(id, nil))
	}
	return errors.Join(errs...)
}

// Purge removes all networks, even if tasks still use them.
func (f *Fabric) Purge(ctx context.Context) error {
	release, err := f.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	ids, err := f.pinned()
	errs := []error{err}
	for _, id := range ids {
		errs = append(errs, f.remove(id, f.networks[id]))
		delete(f.networks, id)
	}
	return errors.Join(errs...)
}

// Close closes the handles of this process. The networks stay as they are.
func (f *Fabric) Close() error {
	f.sem <- struct{}{}
	defer func() { <-f.sem }()
	var errs []error
	for _, n := range f.networks {
		errs = append(errs, n.close())
	}
	clear(f.networks)
	if f.host != nil {
		f.host.h.Close()
		errs = append(errs, f.host.ns.Close())
		f.host = nil
	}
	return errors.Join(errs...)
}

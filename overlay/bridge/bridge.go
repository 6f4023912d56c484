//go:build linux

// Package bridge gives tasks a network of their own host: a bridge with
// masquerade, and ports published on the host (mode=host).
//
// It owns one bridge device, the cables from it, the pins of the tasks' network
// namespaces in Config.NetnsDir, one nftables table, and one accept rule in each
// chain of others that would drop forwarded packets. All of it carries our name,
// is made with the first use and removed with the last. What the kernel holds is
// the only state: a new process learns it in Restore, and nothing is written to
// disk. It refuses to know clusters, services and names. Caller: the worker,
// through an adapter in cmd. Goroutines: none but Run's caller's.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"swarm/overlay/hostport"
	"swarm/overlay/netns"
	"swarm/overlay/nft"
)

// Config of the bridge network. Zero values are defaults.
type Config struct {
	// NetnsDir holds a pin for each attached task, named by its id. Required.
	NetnsDir string
	// Subnet (IPv4); the bridge takes the first address. Default: 172.30.0.0/16, or
	// the next private range that the host does not route.
	Subnet netip.Prefix
	// Subnet6 (a ULA, /64) is the like for IPv6; a task has the same place in both. Default: fd53:5741:524d::/64, or one of the
	// next that the host does not route. Not used where the host has no IPv6.
	Subnet6 netip.Prefix
	// BridgeName is the device's; default "swarm0". The nftables table is named after it.
	BridgeName string
	// MTU of bridge and cables; default: what the host's way out has.
	MTU int
	// FirstPort and LastPort bound the ports that the node chooses; default 30000-32767.
	FirstPort, LastPort uint16

	forbidden uint16
	guard     guard
}

func (c Config) withDefaults() (Config, error) {
	if c.BridgeName == "" {
		c.BridgeName = "swarm0"
	}
	if c.FirstPort == 0 && c.LastPort == 0 {
		c.FirstPort, c.LastPort = 30000, 32767
	}
	switch {
	case c.NetnsDir == "":
		return c, fmt.Errorf("bridge network: no folder for namespaces: %w", errdefs.ErrInvalidArgument)
	case len(c.BridgeName) > 15:
		return c, fmt.Errorf("bridge name %q: give at most 15 characters: %w", c.BridgeName, errdefs.ErrInvalidArgument)
	case c.FirstPort == 0 || c.FirstPort > c.LastPort:
		return c, fmt.Errorf("port range %d-%d is empty: %w", c.FirstPort, c.LastPort, errdefs.ErrInvalidArgument)
	case c.Subnet.IsValid() && (!c.Subnet.Addr().Is4() || c.Subnet.Bits() > 29 || c.Subnet.Bits() < 8):
		return c, fmt.Errorf("bridge subnet %s: give an IPv4 range from /8 to /29: %w", c.Subnet, errdefs.ErrInvalidArgument)
	case c.Subnet6.IsValid() && (!c.Subnet6.Addr().Is6() || c.Subnet6.Bits() > 96):
		return c, fmt.Errorf("bridge subnet %s: give an IPv6 range of /96 or wider: %w", c.Subnet6, errdefs.ErrInvalidArgument)
	}
	return c, nil
}

// Deps of the bridge network.
type Deps struct {
	Log *slog.Logger
}

// Attachment is what a task asks for.
type Attachment struct {
	TaskID string
	// Isolated tasks get a namespace with a loopback and nothing else.
	Isolated bool
	// Interface is the name inside the namespace; default "eth0". A task with other networks has this one last.
	Interface string
	// Apart keeps the task from all others: the bridge is its way out, not a network that it is on.
	Apart bool
	// NoEgress tasks only answer, at their published ports.
	NoEgress bool
	// HostAccess tasks reach the cluster's own ports on its nodes, see Guard.
	HostAccess bool
	Ports      []Port
}

// Result is what a task was given.
type Result struct {
	// Netns is the pin of the task's namespace.
	Netns string
	// The rest is zero for isolated tasks.
	Address netip.Prefix
	Gateway netip.Addr
	// Address6 and Gateway6 are not valid where the host has no IPv6.
	Address6  netip.Prefix
	Gateway6  netip.Addr
	MAC       string
	Interface string
	// Ports in the order asked for, with numbers for those that were to be chosen.
	Ports []Port
}

// Held is a task that is attached already, with what Attach answered.
type Held struct {
	Attachment
	Result Result
}

// Bridge is the network. Its methods may be called by several goroutines.
type Bridge struct {
	cfg Config
	log *slog.Logger

	// turn is taken for each operation: they change the same tables of the kernel.
	// A channel, so that waiting for it ends with the caller's context.
	turn chan struct{}
	// The rest belongs to whoever has the turn.
	up        bool
	net       *plumbing
	addresses *pool
	ports     *portBook
	live      map[string]*attached
}

type attached struct {
	Held
	holds []*hostport.Held
	// published: the rules know the task.
	published bool
}

// New returns the network as yet unused: it touches nothing.
func New(cfg Config, deps Deps) (*Bridge, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Bridge{
		cfg:   cfg,
		log:   deps.Log,
		turn:  make(chan struct{}, 1),
		ports: newPortBook(cfg.FirstPort, cfg.LastPort),
		live:  make(map[string]*attached),
	}, nil
}

// Forbid has tasks send nothing to a UDP port, here or elsewhere: where hosts take what comes from each other's addresses for
// frames of an overlay network, a task could write into networks that it is not on. Called before any Attach or Restore.
func (b *Bridge) Forbid(udpPort uint16) { b.cfg.forbidden = udpPort }

func (b *Bridge) take(ctx context.Context) (release func(), err error) {
	select {
	case b.turn <- struct{}{}:
		return func() { <-b.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Attach makes the task's namespace and connects it. Again for the same task, it
// gives the same answer. ErrAlreadyExists: a port that is taken, with its holder.
// ErrResourceExhausted: no address or no port is left.
func (b *Bridge) Attach(ctx context.Context, a Attachment) (Result, error) {
	if err := a.validate(); err != nil {
		return Result{}, err
	}
	release, err := b.take(ctx)
	if err != nil {
		return Result{}, err
	}
	defer release()
	if t, ok := b.live[a.TaskID]; ok {
		return t.Result, nil
	}
	t := &attached{Held: Held{Attachment: a, Result: Result{Netns: b.pin(a.TaskID)}}}
	if err := b.connect(t); err != nil {
		return Result{}, errors.Join(fmt.Errorf("attach task %s: %w", a.TaskID, err), b.disconnect(t), b.settle())
	}
	b.live[a.TaskID] = t
	return t.Result, nil
}

// connect leaves undoing to disconnect, whatever it got to.
func (b *Bridge) connect(t *attached) error {
	if !t.Isolated {
		if err := b.ensureUp(b.published()); err != nil {
			return err
		}
	}
	// A pin of an earlier attempt is of unknown content.
	if err := netns.Delete(t.Result.Netns); err != nil {
		return err
	}
	if err := netns.Create(t.Result.Netns); err != nil {
		return err
	}
	if t.Isolated {
		return nil
	}
	addr, err := b.addresses.take()
	if err != nil {
		return err
	}
	b.describe(t, addr)
	if t.Result.Ports, t.holds, err = b.ports.hold(t.TaskID, t.Ports); err != nil {
		return err
	}
	if err := b.net.plug(t); err != nil {
		return err
	}
	t.published = true
	if err := b.net.publish(addr, t.use()); err != nil {
		// Somebody may have flushed the host's rules: write them all.
		all := b.published()
		all[addr] = t.use()
		if err := b.net.sync(all); err != nil {
			return err
		}
	}
	return t.listen()
}

// listen: the rules know the ports.
func (t *attached) listen() error {
	for _, h := range t.holds {
		if err := h.Listen(); err != nil {
			return err
		}
	}
	return nil
}

// describe fills in what follows from the address.
func (b *Bridge) describe(t *attached, addr netip.Addr) {
	r := &t.Result
	r.Address = netip.PrefixFrom(addr, b.addresses.subnet.Bits())
	r.Gateway = b.addresses.gateway()
	r.Interface = t.Interface
	r.MAC = macOf(addr).String()
	if six := b.net.subnet6; six.IsValid() {
		r.Address6 = netip.PrefixFrom(sixth(six, addr, b.addresses.subnet), six.Bits())
		r.Gateway6 = sixth(six, r.Gateway, b.addresses.subnet)
	}
}

// use is what the rules are to know of the task.
func (t *attached) use() use {
	return use{cable: port(t), ports: t.Result.Ports, noEgress: t.NoEgress, hostAccess: t.HostAccess}
}

// Detach undoes Attach; a task that is not attached is no error.
func (b *Bridge) Detach(ctx context.Context, taskID string) error {
	if err := validTaskID(taskID); err != nil {
		return err
	}
	release, err := b.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	t, ok := b.live[taskID]
	if !ok {
		t = &attached{Held: Held{Attachment: Attachment{TaskID: taskID}, Result: Result{Netns: b.pin(taskID)}}}
	}
	if err := b.disconnect(t); err != nil {
		return fmt.Errorf("detach task %s: %w", taskID, err)
	}
	delete(b.live, taskID)
	return b.settle()
}

// disconnect takes back whatever of an attachment there is.
func (b *Bridge) disconnect(t *attached) error {
	var errs []error
	if t.published && b.net.unpublish(t.Result.Address.Addr(), t.use()) != nil {
		t.published = false
		errs = append(errs, b.net.sync(b.published()))
	}
	if b.up {
		errs = append(errs, b.net.unplug(t.TaskID))
	}
	for _, h := range t.holds {
		errs = append(errs, h.Close())
	}
	b.ports.drop(t.TaskID)
	errs = append(errs, netns.Delete(t.Result.Netns))
	if b.up && t.Result.Address.IsValid() {
		b.addresses.give(t.Result.Address.Addr())
	}
	return errors.Join(errs...)
}

// settle takes the network down after its last use.
func (b *Bridge) settle() error {
	for _, t := range b.live {
		if !t.Isolated {
			return nil
		}
	}
	return b.takeDown()
}

// Restore is called once, before any Attach, with what the host's tasks hold. It
// removes everything else that an earlier process left behind and makes again what
// is missing; tasks whose network is whole notice nothing.
func (b *Bridge) Restore(ctx context.Context, keep []Held) error {
	keep = slices.Clone(keep)
	for i := range keep {
		if err := keep[i].validate(); err != nil {
			return err
		}
	}
	release, err := b.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if len(b.live) > 0 {
		return fmt.Errorf("restore the bridge network: it is in use: %w", errdefs.ErrFailedPrecondition)
	}
	if err := b.removeStrayPins(keep); err != nil {
		return err
	}
	bridged := slices.ContainsFunc(keep, func(k Held) bool { return !k.Isolated })
	if !bridged {
		if err := b.openKernel(); err != nil {
			return err
		}
		err := b.takeDown()
		return errors.Join(err, b.readopt(keep))
	}
	// The rules are replaced at once and by the same: no connection is refused meanwhile.
	published := make(map[netip.Addr]use)
	for _, k := range keep {
		if !k.Isolated {
			published[k.Result.Address.Addr()] = (&attached{Held: k}).use()
		}
	}
	if err := b.ensureUp(published); err != nil {
		return err
	}
	return b.readopt(keep)
}

// readopt takes every task over and brings the kernel in line with all of them. One task's failure is its own: it is told
// in the log, the task is not attached, and its next Attach begins anew.
func (b *Bridge) readopt(keep []Held) error {
	var errs []error
	for _, k := range keep {
		t := &attached{Held: k}
		t.Result.Netns = b.pin(k.TaskID)
		if err := b.mend(t); err != nil {
			b.log.Error("restore the network of a task", "task", k.TaskID, "err", errors.Join(err, b.disconnect(t)))
			continue
		}
		b.live[k.TaskID] = t
	}
	if b.up {
		errs = append(errs, b.net.removeStrayCables(b.live), b.net.sync(b.published()))
	}
	return errors.Join(errs...)
}

func (b *Bridge) mend(t *attached) error {
	if !netns.Pinned(t.Result.Netns) {
		if err := netns.Create(t.Result.Netns); err != nil {
			return err
		}
	}
	if t.Isolated {
		return nil
	}
	addr := t.Result.Address.Addr()
	if err := b.addresses.claim(addr); err != nil {
		t.Result.Address = netip.Prefix{} // Not ours to give back.
		return err
	}
	// These follow from the address; a caller that kept only the address is as good.
	b.describe(t, addr)
	t.published = true
	var err error
	if t.holds, err = b.ports.reclaim(t.TaskID, t.Result.Ports); err == nil {
		err = t.listen()
	}
	if err != nil {
		// The rules send the packets to the task all the same.
		b.log.Warn("a published port was taken while the daemon was away", "task", t.TaskID, "err", err)
	}
	if b.net.plugged(t) {
		return nil
	}
	if err := b.net.discard(t.TaskID); err != nil {
		return err
	}
	return b.net.plug(t)
}

// published maps the address of every task that the rules know to what they know.
func (b *Bridge) published() map[netip.Addr]use {
	out := make(map[netip.Addr]use)
	for _, t := range b.live {
		if t.published {
			out[t.Result.Address.Addr()] = t.use()
		}
	}
	return out
}

// Check compares the rules of the kernel with what they should be and mends them:
// another program may have flushed them, or have come to drop what is forwarded.
func (b *Bridge) Check(ctx context.Context) error {
	release, err := b.take(ctx)
	if err != nil || !b.up {
		if err == nil {
			release()
		}
		return err
	}
	defer release()
	return b.net.check(b.published())
}

// Run checks the rules whenever somebody has changed the host's, until ctx ends.
func (b *Bridge) Run(ctx context.Context) error {
	return nft.Watch(ctx, 200*time.Millisecond, b.Check, b.log)
}

// Close lets go of the ports and handles that this process holds. The tasks' network stays.
func (b *Bridge) Close() error {
	b.turn <- struct{}{}
	defer func() { <-b.turn }()
	var errs []error
	for _, t := range b.live {
		for _, h := range t.holds {
			errs = append(errs, h.Close())
		}
	}
	clear(b.live)
	if b.net != nil {
		errs = append(errs, b.net.close())
		b.net, b.up = nil, false
	}
	return errors.Join(errs...)
}

// Purge removes everything, also what tasks still use.
func (b *Bridge) Purge(ctx context.Context) error {
	release, err := b.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	var errs []error
	for id, t := range b.live {
		errs = append(errs, b.disconnect(t))
		delete(b.live, id)
	}
	if err := b.openKernel(); err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, b.removeStrayPins(nil), b.takeDown())...)
}

func (b *Bridge) pin(taskID string) string { return filepath.Join(b.cfg.NetnsDir, taskID) }

func (b *Bridge) removeStrayPins(keep []Held) error {
	entries, err := os.ReadDir(b.cfg.NetnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list namespaces: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if slices.ContainsFunc(keep, func(k Held) bool { return k.TaskID == e.Name() }) {
			continue
		}
		errs = append(errs, netns.Delete(filepath.Join(b.cfg.NetnsDir, e.Name())))
	}
	return errors.Join(errs...)
}

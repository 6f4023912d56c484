//go:build linux

// Package bridge connects the tasks of one host to a network that is local to that host: a Linux
// bridge with masquerading for outgoing connections, and ports published on the host (mode=host).
//
// The package owns these objects in the kernel and in the file system:
//   - one bridge device, and one veth pair (a "cable") for each task
//   - the bind mounts ("pins") of the tasks' network namespaces in Config.NetnsDir
//   - two nftables tables of the same name, one in the inet family and one in the bridge family
//   - one accept rule in each foreign chain that would drop forwarded packets
//
// Their names identify them as ours. The first attached task creates the device and the rules, and
// the last one to detach removes them. The kernel is the only record: a new process passes the
// attachments of its tasks to Restore, and the package writes no state to disk.
//
// The package knows nothing about clusters, services and service names. Its caller is the worker,
// through adapter/dataplane. The package starts no goroutines; Run uses the goroutine of its
// caller.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/publish"
	"swarm/overlay/hostport"
	"swarm/overlay/netns"
	"swarm/overlay/nft"
)

// Config configures the bridge network. A zero field selects its default.
type Config struct {
	// NetnsDir is the directory with one namespace pin for each attached task. The name of the pin
	// is the task ID. Required.
	NetnsDir string
	// Subnet is the IPv4 range, from /8 to /29. The bridge has its first address. The default is
	// 172.30.0.0/16, or the next private range to which the host has no route.
	Subnet netip.Prefix
	// Subnet6 is the IPv6 range, /96 or wider. A task has the same index in both ranges. The
	// default is the unique local range fd53:5741:524d::/64, or the next one to which the host has
	// no route. It is not used on a host without IPv6.
	Subnet6 netip.Prefix
	// BridgeName is the name of the bridge device, at most 15 characters. The default is "swarm0".
	// The names of the nftables tables derive from it.
	BridgeName string
	// MTU is the MTU of the bridge and the cables in bytes. The default is the MTU of the interface
	// with the default route.
	MTU int
	// FirstPort and LastPort bound the range of the host ports that the node chooses for a task.
	// The default is 30000-32767.
	FirstPort, LastPort uint16

	blockedUDPPort uint16       // see BlockUDPPort
	blocked        blockedPorts // see BlockClusterPorts
}

func (c Config) withDefaults() (Config, error) {
	if c.BridgeName == "" {
		c.BridgeName = "swarm0"
	}
	if c.FirstPort == 0 && c.LastPort == 0 {
		c.FirstPort, c.LastPort = publish.FirstChosen, publish.LastChosen
	}
	switch {
	case c.NetnsDir == "":
		return c, fmt.Errorf("bridge network: NetnsDir is not set: %w", errdefs.ErrInvalidArgument)
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

// Deps are the live objects that the bridge network uses.
type Deps struct {
	Log *slog.Logger
}

// Attachment describes how to connect a task.
type Attachment struct {
	TaskID string
	// LoopbackOnly gives the task a namespace with a loopback interface and no other.
	LoopbackOnly bool
	// Interface is the name of the interface inside the namespace. The default is "eth0". A task on
	// overlay networks has the bridge as its last interface.
	Interface string
	// PortIsolated stops traffic between this task and the other tasks on the bridge. It is for a
	// task on overlay networks: it uses the bridge for outgoing connections and published ports
	// only.
	PortIsolated bool
	// NoEgress stops connections that the task opens. The task can answer at its published ports.
	NoEgress bool
	// HostAccess lets the task connect to the cluster's own ports on the nodes, see
	// BlockClusterPorts.
	HostAccess bool
	// Ports are the ports to publish. They must be empty if LoopbackOnly is set.
	Ports []Port
}

// Result describes how a task was connected.
type Result struct {
	// Netns is the path of the pin of the task's namespace.
	Netns string
	// Address and all fields below are zero if the task is LoopbackOnly.
	Address netip.Prefix
	Gateway netip.Addr
	// Address6 and Gateway6 are not valid on a host without IPv6.
	Address6  netip.Prefix
	Gateway6  netip.Addr
	MAC       string
	Interface string
	// Ports has the order of Attachment.Ports. Published is set in each of them.
	Ports []Port
}

// Bridge is the bridge network of a host. Several goroutines may call its methods at a time, except
// BlockUDPPort and BlockClusterPorts.
type Bridge struct {
	cfg Config
	log *slog.Logger

	// lock serialises the operations, because they change the same kernel tables. It is a channel,
	// so that a caller stops waiting when its context ends.
	lock chan struct{}
	// lock guards the fields below. up says that the device and the rules exist.
	up          bool
	net         *plumbing
	addresses   *pool
	ports       *portAllocator
	attachments map[string]*attached
}

// attached is an attached task, with the sockets that reserve its ports.
type attached struct {
	Existing
	sockets []*hostport.Reservation
	// published says that the nftables sets contain the task.
	published bool
}

// New returns a bridge network. It does not change the kernel. It returns ErrInvalidArgument if cfg
// is invalid.
func New(cfg Config, deps Deps) (*Bridge, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Bridge{
		cfg:         cfg,
		log:         deps.Log,
		lock:        make(chan struct{}, 1),
		ports:       newPortAllocator(cfg.FirstPort, cfg.LastPort),
		attachments: make(map[string]*attached),
	}, nil
}

// BlockUDPPort drops packets which tasks send to this UDP port on any host. The caller gives the
// VXLAN port: hosts accept VXLAN packets from each other's addresses, and a task sends with the
// address of its host. Without the rule a task could inject frames into any overlay network.
// Call it before Attach and Restore.
func (b *Bridge) BlockUDPPort(udpPort uint16) { b.cfg.blockedUDPPort = udpPort }

func (b *Bridge) acquire(ctx context.Context) (release func(), err error) {
	select {
	case b.lock <- struct{}{}:
		return func() { <-b.lock }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Attach creates the task's namespace and connects it. It returns the same result again if the task
// is already attached. If it fails, it removes everything that it created.
//
// Errors: ErrInvalidArgument if a is invalid; ErrAlreadyExists if a port is in use (the text names
// the user of the port); ErrResourceExhausted if no address or no port is free.
func (b *Bridge) Attach(ctx context.Context, a Attachment) (Result, error) {
	if err := a.normalise(); err != nil {
		return Result{}, err
	}
	release, err := b.acquire(ctx)
	if err != nil {
		return Result{}, err
	}
	defer release()
	if t, ok := b.attachments[a.TaskID]; ok {
		return t.Result, nil
	}
	t := &attached{Existing: Existing{Attachment: a, Result: Result{Netns: b.pin(a.TaskID)}}}
	if err := b.connect(t); err != nil {
		return Result{}, errors.Join(fmt.Errorf("attach task %s: %w", a.TaskID, err), b.disconnect(t), b.removeIfUnused())
	}
	b.attachments[a.TaskID] = t
	return t.Result, nil
}

// connect creates everything that the task needs. After an error the caller must call disconnect.
func (b *Bridge) connect(t *attached) error {
	if !t.LoopbackOnly {
		if err := b.ensureUp(b.published()); err != nil {
			return err
		}
	}
	// A pin from an earlier attempt may have any content.
	if err := netns.Delete(t.Result.Netns); err != nil {
		return err
	}
	if err := netns.Create(t.Result.Netns); err != nil {
		return err
	}
	if t.LoopbackOnly {
		return nil
	}
	addr, err := b.addresses.allocate()
	if err != nil {
		return err
	}
	b.fillResult(t, addr)
	if t.Result.Ports, t.sockets, err = b.ports.allocate(t.TaskID, t.Ports); err != nil {
		return err
	}
	if err := b.net.plug(t); err != nil {
		return err
	}
	t.published = true
	if err := b.net.publish(addr, t.rules()); err != nil {
		// Another program may have flushed the rules, so write all rules again.
		all := b.published()
		all[addr] = t.rules()
		if err := b.net.sync(all); err != nil {
			return err
		}
	}
	return t.listen()
}

// listen starts to listen at the task's published ports. The rules must redirect the ports already.
// If they did not, the socket would accept a connection that is meant for the task.
func (t *attached) listen() error {
	for _, h := range t.sockets {
		if err := h.Listen(); err != nil {
			return err
		}
	}
	return nil
}

// fillResult sets the fields of the result that derive from the IPv4 address.
func (b *Bridge) fillResult(t *attached, addr netip.Addr) {
	r := &t.Result
	r.Address = netip.PrefixFrom(addr, b.addresses.subnet.Bits())
	r.Gateway = b.addresses.gateway()
	r.Interface = t.Interface
	r.MAC = macOf(addr).String()
	if six := b.net.subnet6; six.IsValid() {
		r.Address6 = netip.PrefixFrom(ipv6Of(six, addr, b.addresses.subnet), six.Bits())
		r.Gateway6 = ipv6Of(six, r.Gateway, b.addresses.subnet)
	}
}

// rules returns what the nftables sets must contain for the task.
func (t *attached) rules() taskRules {
	return taskRules{cable: portName(t), ports: t.Result.Ports, noEgress: t.NoEgress, hostAccess: t.HostAccess}
}

// Detach undoes Attach. It returns nil if the task is not attached.
func (b *Bridge) Detach(ctx context.Context, taskID string) error {
	if err := validTaskID(taskID); err != nil {
		return err
	}
	release, err := b.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	t, ok := b.attachments[taskID]
	if !ok {
		t = &attached{Existing: Existing{Attachment: Attachment{TaskID: taskID}, Result: Result{Netns: b.pin(taskID)}}}
	}
	if err := b.disconnect(t); err != nil {
		return fmt.Errorf("detach task %s: %w", taskID, err)
	}
	delete(b.attachments, taskID)
	return b.removeIfUnused()
}

// disconnect removes all parts of the attachment that exist.
func (b *Bridge) disconnect(t *attached) error {
	var errs []error
	if t.published && b.net.unpublish(t.Result.Address.Addr(), t.rules()) != nil {
		t.published = false
		errs = append(errs, b.net.sync(b.published()))
	}
	if b.up {
		errs = append(errs, b.net.unplug(t.TaskID))
	}
	for _, h := range t.sockets {
		errs = append(errs, h.Close())
	}
	b.ports.release(t.TaskID)
	errs = append(errs, netns.Delete(t.Result.Netns))
	if b.up && t.Result.Address.IsValid() {
		b.addresses.release(t.Result.Address.Addr())
	}
	return errors.Join(errs...)
}

// removeIfUnused removes the device and the rules if no attached task uses them.
func (b *Bridge) removeIfUnused() error {
	for _, t := range b.attachments {
		if !t.LoopbackOnly {
			return nil
		}
	}
	return b.takeDown()
}

// Check compares the rules in the kernel with the expected rules and repairs them. Another program
// may have flushed them, or may have added a chain that drops forwarded packets.
func (b *Bridge) Check(ctx context.Context) error {
	release, err := b.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if !b.up {
		return nil
	}
	return b.net.check(b.published())
}

// Run calls Check after each change of the host's nftables rules, at most every 200 ms, until ctx
// ends.
func (b *Bridge) Run(ctx context.Context) error {
	return nft.Watch(ctx, 200*time.Millisecond, b.Check, b.log)
}

// Close closes the sockets and netlink handles of this process. The network of the tasks remains.
func (b *Bridge) Close() error {
	b.lock <- struct{}{}
	defer func() { <-b.lock }()
	var errs []error
	for _, t := range b.attachments {
		for _, h := range t.sockets {
			errs = append(errs, h.Close())
		}
	}
	clear(b.attachments)
	if b.net != nil {
		errs = append(errs, b.net.close())
		b.net, b.up = nil, false
	}
	return errors.Join(errs...)
}

// Purge removes the whole network. It also detaches the tasks that still use it.
func (b *Bridge) Purge(ctx context.Context) error {
	release, err := b.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	var errs []error
	for id, t := range b.attachments {
		errs = append(errs, b.disconnect(t))
		delete(b.attachments, id)
	}
	if err := b.openKernel(); err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, b.removeStrayPins(nil), b.takeDown())...)
}

func (b *Bridge) pin(taskID string) string { return filepath.Join(b.cfg.NetnsDir, taskID) }

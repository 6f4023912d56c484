//go:build linux

// Package gossip keeps every node's view of which nodes are there, by serf on
// memberlist, encrypted.
//
// It owns one serf instance with its port and key ring. What it says is a hint,
// soft and unordered: it may speed a decision up, and decides nothing. It carries
// membership and a few tags, and refuses to carry state. Two machines with one
// node id are reported and the second is ignored, never followed. Caller: the
// daemon. Goroutines: serf's own and its sockets', until Close, and the one that
// calls Run.
package gossip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// Names of the tags that every node has.
const (
	TagRole  = "role"
	TagBuild = "build"
)

// KeySize of every key, in bytes: AES-256-GCM.
const KeySize = 32

// DefaultPort of the gossip, TCP and UDP.
const DefaultPort = 7946

// eventBacklog holds what happens between New and Run, and while Run is busy: serf
// stands still while it is full.
const eventBacklog = 4096

// Config of a node's membership. Zero durations are defaults, which find a dead
// member in 4 s at 100 members.
type Config struct {
	// NodeID is the member's name.
	NodeID string
	// BindAddr and AdvertiseAddr: where to listen, and what the others are told.
	BindAddr, AdvertiseAddr netip.Addr
	// Port to listen on and to tell; default 7946.
	Port uint16
	// Keys of KeySize bytes. The first encrypts; each decrypts.
	Keys [][]byte
	// Tags, 512 bytes in all.
	Tags map[string]string
	// SnapshotPath is a file that remembers members over a restart; empty: none.
	SnapshotPath string

	// ProbeInterval: how often a node probes another, default 500 ms. ProbeTimeout:
	// when it asks others to try, default 200 ms. SuspicionMult: how many intervals,
	// times the logarithm of the members, a suspect has to object, default 3.
	// GossipInterval: how often news is passed on, default 100 ms.
	ProbeInterval, ProbeTimeout, GossipInterval time.Duration
	SuspicionMult                               int
	// ReconnectInterval: how often one that failed is tried again, default 5 s.
	// ForgetAfter: when it is dropped from the list, default 72 h.
	ReconnectInterval, ForgetAfter time.Duration
}

// Deps of the membership.
type Deps struct {
	Log *slog.Logger
	// Transport replaces the sockets, in tests.
	Transport memberlist.Transport
	// Conflict, if set, is told by Run of a second machine with a node's id: once a
	// minute for each.
	Conflict func(Conflict)
}

// Conflict is one id claimed at two addresses. The member's stands.
type Conflict struct {
	NodeID        string
	Member, Other netip.AddrPort
}

func (c Conflict) String() string {
	return fmt.Sprintf("node id %s is used by two machines, %s and %s: a copied state folder? Remove /var/lib/swarm on the copy and join again",
		c.NodeID, c.Member, c.Other)
}

func (c Config) withDefaults() (Config, error) {
	c.Port = cmp.Or(c.Port, DefaultPort)
	c.ProbeInterval = cmp.Or(c.ProbeInterval, 500*time.Millisecond)
	c.ProbeTimeout = cmp.Or(c.ProbeTimeout, 200*time.Millisecond)
	c.GossipInterval = cmp.Or(c.GossipInterval, 100*time.Millisecond)
	c.SuspicionMult = cmp.Or(c.SuspicionMult, 3)
	c.ReconnectInterval = cmp.Or(c.ReconnectInterval, 5*time.Second)
	c.ForgetAfter = cmp.Or(c.ForgetAfter, 72*time.Hour)
	switch {
	case c.NodeID == "":
		return c, fmt.Errorf("gossip: no node id: %w", errdefs.ErrInvalidArgument)
	case !c.BindAddr.IsValid() || !c.AdvertiseAddr.IsValid():
		return c, fmt.Errorf("gossip: bind address %s, advertised %s: give both: %w", c.BindAddr, c.AdvertiseAddr, errdefs.ErrInvalidArgument)
	case c.AdvertiseAddr.IsUnspecified():
		return c, fmt.Errorf("gossip: advertised address %s is no address of a host: %w", c.AdvertiseAddr, errdefs.ErrInvalidArgument)
	case c.ProbeTimeout >= c.ProbeInterval:
		return c, fmt.Errorf("gossip: probe timeout %s is not below the interval %s: %w", c.ProbeTimeout, c.ProbeInterval, errdefs.ErrInvalidArgument)
	}
	return c, validKeys(c.Keys)
}

// Gossip is this node's membership.
type Gossip struct {
	deps      Deps
	serf      *serf.Serf
	ring      *memberlist.Keyring
	events    chan serf.Event
	conflicts chan Conflict
	self      Member

	// mu guards what follows.
	mu      sync.Mutex
	members map[string]Member
	changed chan struct{}
	seeds   []string

	// reseed wakes Run after SetSeeds.
	reseed chan struct{}
	// told belongs to Run: when each conflict was last reported.
	told map[Conflict]time.Time

	// leaving counts calls of serf's Leave, which cannot be interrupted.
	leaving   sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// New listens and makes this node a cluster of its own; Run must follow, and Close at the end.
func New(cfg Config, deps Deps) (*Gossip, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	ring, err := memberlist.NewKeyring(cfg.Keys, cfg.Keys[0])
	if err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	g := &Gossip{
		deps:      deps,
		ring:      ring,
		events:    make(chan serf.Event, eventBacklog),
		conflicts: make(chan Conflict, 16),
		members:   make(map[string]Member),
		changed:   make(chan struct{}),
		reseed:    make(chan struct{}, 1),
		told:      make(map[Conflict]time.Time),
	}
	g.self = Member{ID: cfg.NodeID, Addr: netip.AddrPortFrom(cfg.AdvertiseAddr, cfg.Port), Status: Alive, Tags: maps.Clone(cfg.Tags), Since: time.Now()}
	g.members[cfg.NodeID] = g.self
	at := netip.AddrPortFrom(cfg.BindAddr, cfg.Port)
	if g.deps.Transport == nil {
		if g.deps.Transport, err = listen(at, deps.Log); err != nil {
			return nil, fmt.Errorf("gossip: %w", err)
		}
	}
	if g.serf, err = serf.Create(g.serfConfig(cfg)); err != nil {
		return nil, errors.Join(fmt.Errorf("gossip on %s: %w", at, err), g.deps.Transport.Shutdown())
	}
	return g, nil
}

// exchangeInterval is how often this node and another tell each other all that they know, in clusters of up to 32; in
// larger ones it is longer. News goes round in a bounded number of packets to members by lot: in a small cluster that
// many join at once, about one in a hundred times somebody is missed, and only the exchange tells him.
const exchangeInterval = 10 * time.Second

func (g *Gossip) serfConfig(cfg Config) *serf.Config {
	ml := memberlist.DefaultLANConfig()
	ml.Transport = g.deps.Transport
	ml.BindAddr, ml.BindPort = cfg.BindAddr.String(), int(cfg.Port)
	ml.AdvertiseAddr, ml.AdvertisePort = cfg.AdvertiseAddr.String(), int(cfg.Port)
	ml.ProbeInterval, ml.ProbeTimeout = cfg.ProbeInterval, cfg.ProbeTimeout
	ml.SuspicionMult, ml.GossipInterval = cfg.SuspicionMult, cfg.GossipInterval
	ml.TCPTimeout = 3 * time.Second
	ml.PushPullInterval = exchangeInterval
	ml.Keyring = g.ring
	ml.GossipVerifyIncoming, ml.GossipVerifyOutgoing = true, true
	// A host that comes back with another address may have its name again.
	ml.DeadNodeReclaimTime = 3 * time.Second
	ml.EnableCompression = false
	ml.Alive = aliveDelegate{g}
	ml.Logger = newLogger(g.deps.Log)
	ml.LogOutput = nil

	sc := serf.DefaultConfig()
	sc.NodeName, sc.Tags = cfg.NodeID, maps.Clone(cfg.Tags)
	sc.MemberlistConfig = ml
	sc.EventCh = g.events
	// A goodbye may be that of a host that goes down: it comes back. One that leaves for good loses its snapshot.
	sc.SnapshotPath, sc.RejoinAfterLeave = cfg.SnapshotPath, true
	sc.ReconnectInterval, sc.ReconnectTimeout = cfg.ReconnectInterval, cfg.ForgetAfter
	sc.TombstoneTimeout = cfg.ForgetAfter
	sc.BroadcastTimeout, sc.LeavePropagateDelay = 2*time.Second, 500*time.Millisecond
	sc.DisableCoordinates = true
	// serf would let the members vote and stop the loser. Who is who is a matter of
	// certificates; here the first keeps the name.
	sc.EnableNameConflictResolution = false
	sc.Logger, sc.LogOutput = ml.Logger, nil
	return sc
}

// seedInterval is how often a node that sees no other tries its seeds.
const seedInterval = 5 * time.Second

// Run follows the membership until ctx ends. It stays in the cluster then; see Leave and Close.
func (g *Gossip) Run(ctx context.Context) error {
	retry := time.NewTimer(seedInterval)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.serf.ShutdownCh():
			return nil
		case ev := <-g.events:
			if me, ok := ev.(serf.MemberEvent); ok {
				g.observe(me)
			}
		case c := <-g.conflicts:
			g.report(c)
		case <-g.reseed:
			g.findOthers(ctx)
			retry.Reset(seedInterval)
		case <-retry.C:
			g.findOthers(ctx)
			retry.Reset(seedInterval)
		}
	}
}

// SetSeeds gives the addresses that Run tries, at once and then for as long as
// this node sees no other.
func (g *Gossip) SetSeeds(addrs []string) {
	g.mu.Lock()
	g.seeds = slices.Clone(addrs)
	g.mu.Unlock()
	select {
	case g.reseed <- struct{}{}:
	default: // Run has not yet looked at the former ones.
	}
}

func (g *Gossip) findOthers(ctx context.Context) {
	seeds := g.seedsIfAlone()
	if len(seeds) == 0 {
		return
	}
	if _, err := g.Join(ctx, seeds); err != nil && ctx.Err() == nil {
		g.deps.Log.Debug("no other member answers", "err", err)
	}
}

// Join contacts members by address ("host:port", or a host on our port) and
// returns how many answered: ErrUnavailable when none did. One is enough.
func (g *Gossip) Join(ctx context.Context, addrs []string) (int, error) {
	if len(addrs) == 0 {
		return 0, fmt.Errorf("join gossip: no address: %w", errdefs.ErrInvalidArgument)
	}
	var joined int
	var errs []error
	for _, addr := range addrs {
		if err := ctx.Err(); err != nil {
			return joined, errors.Join(append(errs, err)...)
		}
		n, err := g.serf.Join([]string{g.withPort(addr)}, true)
		joined += n
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", addr, err))
		}
	}
	if joined > 0 {
		return joined, nil
	}
	return 0, fmt.Errorf("join gossip: no member answers (port %d tcp and udp open? same cluster?): %w: %w",
		g.self.Addr.Port(), errors.Join(errs...), errdefs.ErrUnavailable)
}

func (g *Gossip) withPort(addr string) string {
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr
	}
	return net.JoinHostPort(addr, strconv.Itoa(int(g.self.Addr.Port())))
}

// UpdateKeys replaces the key ring. To change the key of a cluster: add the new
// one at the end everywhere, then put it first everywhere, then remove the old.
func (g *Gossip) UpdateKeys(keys [][]byte) error {
	if err := validKeys(keys); err != nil {
		return err
	}
	for _, k := range keys {
		if err := g.ring.AddKey(k); err != nil {
			return fmt.Errorf("add gossip key: %w", err)
		}
	}
	if err := g.ring.UseKey(keys[0]); err != nil {
		return fmt.Errorf("use gossip key: %w", err)
	}
	wanted := make(map[string]bool, len(keys))
	for _, k := range keys {
		wanted[string(k)] = true
	}
	for _, k := range g.ring.GetKeys() {
		if wanted[string(k)] {
			continue
		}
		if err := g.ring.RemoveKey(k); err != nil {
			return fmt.Errorf("remove gossip key: %w", err)
		}
	}
	return nil
}

func validKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return fmt.Errorf("gossip: no key, it is never unencrypted: %w", errdefs.ErrInvalidArgument)
	}
	for _, k := range keys {
		if len(k) != KeySize {
			return fmt.Errorf("gossip: key of %d bytes, want %d: %w", len(k), KeySize, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// Health is memberlist's opinion of this node itself: 0 is well; above, the fault
// may be here when others seem to fail.
func (g *Gossip) Health() int { return g.serf.Memberlist().GetHealthScore() }

// Leave tells the others that this node goes for good, and waits until it is
// likely that they know: about a second, at most five, or until ctx ends.
func (g *Gossip) Leave(ctx context.Context) error {
	done := make(chan error, 1)
	g.leaving.Go(func() { done <- g.serf.Leave() })
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("leave gossip: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("leave gossip: %w", context.Cause(ctx))
	}
}

// Close stops listening. Without Leave the others will see this node fail.
func (g *Gossip) Close() error {
	g.closeOnce.Do(func() {
		if err := g.serf.Shutdown(); err != nil {
			g.closeErr = fmt.Errorf("close gossip: %w", err)
		}
		g.leaving.Wait()
	})
	return g.closeErr
}

//go:build linux

// Package gossip keeps every node's view of which nodes are there, by memberlist. See
// docs/adr/0008.
//
// It owns one memberlist with its port. What it says is a hint, soft and unordered: it may speed a
// decision up, and decides nothing. It carries membership and a few tags, and refuses to carry
// state. Only members are listened to: all that is sent is encrypted with the cluster's gossip key
// and signed with the key of the sender's certificate, which the managers name. What a node says of
// itself (tags, address, goodbye) carries its own signature. That a node has failed may be claimed
// by any member: whoever acts on it asks that node first (package witness). Two machines with one
// node id are reported and the second is ignored, never followed. Caller: the daemon. Goroutines:
// memberlist's own and its transport's, until Close, and the one that calls Run.
package gossip

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/memberlist"

	"swarm/overlay/gossip/envelope"
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
	// Tags, 400 bytes in all.
	Tags map[string]string

	// ProbeInterval: how often a node probes another, default 500 ms. ProbeTimeout:
	// when it asks others to try, default 200 ms. SuspicionMult: how many intervals,
	// times the logarithm of the members, a suspect has to object, default 3.
	// GossipInterval: how often news is passed on, default 100 ms.
	ProbeInterval, ProbeTimeout, GossipInterval time.Duration
	SuspicionMult                               int
}

// Deps of the membership.
type Deps struct {
	Log *slog.Logger
	// Key is that of this node's certificate, which signs what it sends.
	Key func() *ecdsa.PrivateKey
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
	switch {
	case c.NodeID == "" || len(c.NodeID) > envelope.MaxID:
		return c, fmt.Errorf("gossip: node id %q: want 1 to %d bytes: %w", c.NodeID, envelope.MaxID, errdefs.ErrInvalidArgument)
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
	self      string
	addr      netip.AddrPort
	list      *memberlist.Memberlist
	ring      *envelope.Ring
	opener    *envelope.Opener
	transport *guard
	conflicts chan Conflict
	roster    atomic.Pointer[roster]
	signing   atomic.Pointer[signing]
	choosing  sync.Mutex // held while signing changes

	// mu guards what follows. Memberlist calls us with its own lock held: it is not called with
	// this one.
	mu      sync.Mutex
	members map[string]*record
	up      map[string]bool // that memberlist takes for alive, members or not
	changed chan struct{}
	seeds   []string
	floor   uint64 // what this node says next is later

	// look wakes Run to find others; say, to tell them anew what this node says of itself.
	look, say chan struct{}
	// told belongs to Run: when each conflict was last reported.
	told map[Conflict]time.Time

	// leaving counts calls of Leave, which cannot be interrupted.
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
	g := &Gossip{
		deps: deps, self: cfg.NodeID, addr: netip.AddrPortFrom(cfg.AdvertiseAddr.Unmap(), cfg.Port),
		ring: &envelope.Ring{}, conflicts: make(chan Conflict, 16),
		members: map[string]*record{}, up: map[string]bool{}, changed: make(chan struct{}),
		look: make(chan struct{}, 1), say: make(chan struct{}, 1), told: map[Conflict]time.Time{},
	}
	g.roster.Store(&roster{})
	if err := g.UpdateKeys(cfg.Keys); err != nil {
		return nil, err
	}
	g.members[g.self] = &record{addr: g.addr, up: true, since: time.Now(), said: statement{tags: maps.Clone(cfg.Tags)}, verified: true}
	if err := g.state(false); err != nil {
		return nil, err
	}
	at := netip.AddrPortFrom(cfg.BindAddr, cfg.Port)
	if g.deps.Transport == nil {
		if g.deps.Transport, err = listen(at, deps.Log); err != nil {
			return nil, fmt.Errorf("gossip: %w", err)
		}
	}
	g.opener = envelope.NewOpener(g.ring, func(id string) (envelope.Trust, bool) { return g.roster.Load().trust(id) })
	g.transport = newGuard(g.deps.Transport, deps.Log, envelope.NewSealer(g.self, g.ring, g.signingKey), g.opener,
		func(a netip.Addr) bool { return g.roster.Load().addrs[a] })
	if g.list, err = memberlist.Create(g.config(cfg)); err != nil {
		return nil, errors.Join(fmt.Errorf("gossip on %s: %w", at, err), g.transport.Shutdown())
	}
	return g, nil
}

// exchangeInterval is how often this node and another tell each other all that they know, in
// clusters of up to 32; in larger ones it is longer. News goes round in a bounded number of packets
// to members by lot: in a small cluster that many join at once, about one in a hundred times
// somebody is missed, and only the exchange tells him.
const exchangeInterval = 10 * time.Second

func (g *Gossip) config(cfg Config) *memberlist.Config {
	ml := memberlist.DefaultLANConfig()
	ml.Name = cfg.NodeID
	ml.Transport = g.transport
	ml.BindAddr, ml.BindPort = cfg.BindAddr.String(), int(cfg.Port)
	ml.AdvertiseAddr, ml.AdvertisePort = cfg.AdvertiseAddr.String(), int(cfg.Port)
	ml.ProbeInterval, ml.ProbeTimeout = cfg.ProbeInterval, cfg.ProbeTimeout
	ml.SuspicionMult, ml.GossipInterval = cfg.SuspicionMult, cfg.GossipInterval
	ml.TCPTimeout = 3 * time.Second
	ml.PushPullInterval = exchangeInterval
	ml.UDPBufferSize -= envelope.Overhead(len(cfg.NodeID))
	// A host that comes back with another address may have its name again.
	ml.DeadNodeReclaimTime = 3 * time.Second
	ml.EnableCompression = false
	d := delegate{g}
	ml.Alive, ml.Events, ml.Delegate = d, d, d
	ml.Logger, ml.LogOutput = newLogger(g.deps.Log), nil
	return ml
}

// state words what this node says of itself from now on.
func (g *Gossip) state(leaving bool) error {
	key := g.signingKey()
	g.mu.Lock()
	defer g.mu.Unlock()
	own := g.members[g.self]
	next := statement{tags: own.said.tags, leaving: leaving || own.said.leaving}
	next.made = max(later(own.said.made), later(g.floor))
	meta, err := next.sign(key, g.self, g.addr)
	if err != nil {
		return err
	}
	own.said, own.meta = next, meta
	return nil
}

const (
	// seedInterval is how often, at most, a node that sees no other tries its seeds, and any node
	// one that it misses. A node that has just joined tries sooner: the managers may not yet know
	// of each other that it is a member.
	seedInterval  = 5 * time.Second
	firstInterval = 250 * time.Millisecond
	// seedsAtOnce are tried before the next pause.
	seedsAtOnce = 5
	// sayTimeout bounds how long this node tries to tell another what it says of itself.
	sayTimeout = 2 * time.Second
	// goodbyes is how often a node says that it leaves. News goes to members by lot, and about one time
	// in 200 one of five members hears none of it; nothing tells that member later, because
	// memberlist's exchange of state does not pass on the statements of dead nodes.
	goodbyes = 3
	// leaveDelay is for the goodbye to go round.
	leaveDelay = 500 * time.Millisecond
)

// Run follows the membership until ctx ends. It stays in the cluster then; see Leave and Close.
func (g *Gossip) Run(ctx context.Context) error {
	wait := firstInterval
	retry := time.NewTimer(wait)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-g.conflicts:
			g.report(c)
		case <-g.say:
			if err := g.speak(); err != nil {
				g.deps.Log.Warn("tell others of this node", "err", err)
			}
		case <-g.look:
			wait = firstInterval
			retry.Reset(wait/2 + rand.N(wait))
		case <-retry.C:
			g.findOthers(ctx)
			wait = min(2*wait, seedInterval)
			retry.Reset(wait)
		}
	}
}

// speak tells the others anew what this node says of itself.
func (g *Gossip) speak() error {
	if err := g.state(false); err != nil {
		return err
	}
	return g.list.UpdateNode(sayTimeout)
}

// SetSeeds gives the addresses that Run tries, soon and then for as long as
// this node sees no other.
func (g *Gossip) SetSeeds(addrs []string) {
	g.mu.Lock()
	g.seeds = slices.Clone(addrs)
	g.mu.Unlock()
	wake(g.look)
}

// findOthers tries to reach others while this node sees none, and otherwise a member that it
// misses, if any.
func (g *Gossip) findOthers(ctx context.Context) {
	addrs, alone := g.missing()
	if alone {
		rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	}
	for _, addr := range addrs {
		if n, err := g.Join(ctx, []string{addr}); n > 0 || ctx.Err() != nil {
			return
		} else if err != nil {
			g.deps.Log.Debug("no other member answers", "err", err)
		}
	}
}

// missing gives addresses to try. A member that does not answer is tried about eight times by all
// others together in each interval, however many they are.
func (g *Gossip) missing() (addrs []string, alone bool) {
	peers := g.roster.Load().peers
	g.mu.Lock()
	defer g.mu.Unlock()
	up := 0
	for id := range g.members {
		if id != g.self && g.up[id] {
			up++
		}
	}
	// Those that this node has heard of come first: of the others nobody knows whether they exist.
	var heard []string
	for id, p := range peers {
		r := g.members[id]
		if id == g.self || g.up[id] || !p.Addr.IsValid() || up > 0 && r != nil && r.status() == Left {
			continue
		}
		at := netip.AddrPortFrom(p.Addr, g.addr.Port())
		if r != nil && r.addr.Addr() == p.Addr {
			at = r.addr
		}
		if r != nil {
			heard = append(heard, at.String())
		} else {
			addrs = append(addrs, at.String())
		}
	}
	if up == 0 {
		return pick(seedsAtOnce, heard, g.seeds, addrs), true
	}
	if n := len(heard) + len(addrs); n == 0 || rand.IntN(up) >= 8*n {
		return nil, false
	}
	groups := [][]string{heard, addrs}
	rand.Shuffle(len(groups), func(i, j int) { groups[i], groups[j] = groups[j], groups[i] })
	return pick(1, groups...), false
}

// pick takes n by lot, from one group after the other, so that none crowds out another.
func pick(n int, groups ...[]string) (out []string) {
	for i, g := range groups {
		groups[i] = slices.Clone(g)
		rand.Shuffle(len(g), func(a, b int) { groups[i][a], groups[i][b] = groups[i][b], groups[i][a] })
	}
	for more := true; more && len(out) < n; {
		more = false
		for i, g := range groups {
			if len(g) > 0 && len(out) < n {
				out, groups[i], more = append(out, g[0]), g[1:], true
			}
		}
	}
	return out
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
		n, err := g.list.Join([]string{g.withPort(addr)})
		joined += n
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", addr, err))
		}
	}
	if joined > 0 {
		return joined, nil
	}
	return 0, fmt.Errorf("join gossip: no member answers (port %d tcp and udp open? same cluster?): %w: %w",
		g.addr.Port(), errors.Join(errs...), errdefs.ErrUnavailable)
}

func (g *Gossip) withPort(addr string) string {
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr
	}
	return net.JoinHostPort(addr, strconv.Itoa(int(g.addr.Port())))
}

// UpdateKeys replaces the keys. To change the key of a cluster: add the new
// one at the end everywhere, then put it first everywhere, then remove the old.
func (g *Gossip) UpdateKeys(keys [][]byte) error {
	if err := validKeys(keys); err != nil {
		return err
	}
	return g.ring.Set(keys)
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
func (g *Gossip) Health() int { return g.list.GetHealthScore() }

// Leave tells the others that this node goes for good, and waits until it is
// likely that they know: about a second, at most nine, or until ctx ends.
func (g *Gossip) Leave(ctx context.Context) error {
	done := make(chan error, 1)
	g.leaving.Go(func() {
		// The goodbye itself is what this node says; Leave then ends the probes.
		var err error
		for i := 0; i < goodbyes && err == nil; i++ {
			if err = g.state(true); err == nil {
				// UpdateNode waits in vain when memberlist has sent the statement before it begins to wait.
				_ = g.list.UpdateNode(sayTimeout)
			}
		}
		if err == nil {
			err = g.list.Leave(sayTimeout)
		}
		<-time.After(leaveDelay)
		done <- err
	})
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
		g.leaving.Wait() // Memberlist panics when it is left after its shutdown.
		if err := g.list.Shutdown(); err != nil {
			g.closeErr = fmt.Errorf("close gossip: %w", err)
		}
	})
	return g.closeErr
}

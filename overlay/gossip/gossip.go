//go:build linux

// Package gossip tells each node which other nodes are up. It is built on memberlist; see
// docs/adr/0008.
//
// The Gossip of a node owns one memberlist with its TCP and UDP port. It reports the status,
// address and tags of each member, and carries no other state. Its reports are hints. Two nodes may
// get them in a different order. A caller may use them to decide sooner, but not as the only
// evidence.
//
// Gossip listens only to members. All messages are encrypted with the gossip key of the cluster,
// and signed with the key of the sender's certificate. The managers send the public keys of all
// members (Apply). The statement of a node about itself (tags, address, goodbye) has a second
// signature, so that no member can change it when it passes it on. Any member can claim that
// another has failed, so a caller that acts on such a claim must probe that node first (package
// detector). If two machines use one node id, gossip reports the conflict and ignores the second
// machine.
//
// Its caller is adapter/dataplane. Goroutines: those of memberlist and of the transport, until
// Close, and the one that calls Run.
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

// The names of the tags that every node has.
const (
	TagRole  = "role"
	TagBuild = "build"
)

// KeySize is the size of a gossip key in bytes (AES-256-GCM).
const KeySize = 32

// DefaultPort is the TCP and UDP port of gossip if Config.Port is 0.
const DefaultPort = 7946

// Config is the configuration of a Gossip. Zero durations mean the defaults, with which a dead
// member is found in 4 s in a cluster of 100 members.
type Config struct {
	// NodeID is the id of this node, 1 to envelope.MaxID bytes. Required.
	NodeID string
	// BindAddr is the address to listen on, AdvertiseAddr the one that other members send to. Both
	// are required.
	BindAddr, AdvertiseAddr netip.Addr
	// Port is the TCP and UDP port to listen on and to advertise; default DefaultPort.
	Port uint16
	// Keys has at least one key of KeySize bytes. The first encrypts; each decrypts.
	Keys [][]byte
	// Tags are what this node publishes about itself. A name or a value has at most 255 bytes, and
	// all tags together at most about 400 bytes.
	Tags map[string]string

	// ProbeInterval is the time between two probes that this node sends; default 500 ms.
	// ProbeTimeout is how long it waits for the answer before it asks other members to probe the
	// same node; default 200 ms, and less than ProbeInterval. GossipInterval is the time between
	// two rounds of sending news to random members; default 100 ms.
	ProbeInterval, ProbeTimeout, GossipInterval time.Duration
	// SuspicionMult decides how long a suspected member may take to object: SuspicionMult times
	// ProbeInterval times the decimal logarithm of the number of members; default 3.
	SuspicionMult int
}

// Deps are the live objects that a Gossip uses.
type Deps struct {
	Log *slog.Logger
	// Key returns the private key of this node's certificate, which signs what the node sends.
	Key func() *ecdsa.PrivateKey
	// Transport replaces the sockets in tests.
	Transport memberlist.Transport
	// Conflict, if not nil, is called by Run when a second machine uses the id of a member, at most
	// once a minute for each pair of addresses.
	Conflict func(Conflict)
}

// Conflict is a node id that is used at two addresses. Gossip follows Member and ignores Other.
type Conflict struct {
	NodeID        string
	Member, Other netip.AddrPort
}

// String describes the conflict and how to end it.
func (c Conflict) String() string {
	return fmt.Sprintf("two machines use node id %s, %s and %s, which happens when a state folder is copied: remove /var/lib/swarm on the copy and join it again",
		c.NodeID, c.Member, c.Other)
}

// withDefaults sets the defaults and validates the configuration.
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
		return c, fmt.Errorf("gossip: bind address %s, advertise address %s: both are required: %w", c.BindAddr, c.AdvertiseAddr, errdefs.ErrInvalidArgument)
	case c.AdvertiseAddr.IsUnspecified():
		return c, fmt.Errorf("gossip: other hosts cannot send to the advertise address %s: %w", c.AdvertiseAddr, errdefs.ErrInvalidArgument)
	case c.ProbeTimeout >= c.ProbeInterval:
		return c, fmt.Errorf("gossip: probe timeout %s, want less than the probe interval %s: %w", c.ProbeTimeout, c.ProbeInterval, errdefs.ErrInvalidArgument)
	}
	return c, validKeys(c.Keys)
}

// Gossip is the membership of this node in the cluster's gossip. It is safe for concurrent use;
// only one goroutine may call Run.
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
	signing   atomic.Pointer[signingKeys]
	signingMu sync.Mutex // held while signing is replaced

	// mu guards members, up, changed, seeds and minIssued. memberlist holds its lock when it calls
	// the delegate, which takes mu. So no code may call memberlist while it holds mu.
	mu      sync.Mutex
	members map[string]*record
	up      map[string]bool // nodes that memberlist reports as alive, whether members or not
	changed chan struct{}
	seeds   []string
	// minIssued is a lower bound for the time of this node's next statement, in ns since 1970.
	minIssued uint64

	// reconnectNow wakes Run to look for other members. announceNow wakes it to send a new
	// statement of this node.
	reconnectNow, announceNow chan struct{}
	// reported is when each conflict was last reported. Only Run uses it.
	reported map[Conflict]time.Time

	// leaving counts the goroutines of Leave, which cannot be interrupted.
	leaving   sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// New opens the port and makes this node the only member of a new membership. The caller must call
// Run, and Close at the end.
func New(cfg Config, deps Deps) (*Gossip, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Gossip{
		deps: deps, self: cfg.NodeID, addr: netip.AddrPortFrom(cfg.AdvertiseAddr.Unmap(), cfg.Port),
		ring: &envelope.Ring{}, conflicts: make(chan Conflict, 16),
		members: map[string]*record{}, up: map[string]bool{}, changed: make(chan struct{}),
		reconnectNow: make(chan struct{}, 1), announceNow: make(chan struct{}, 1), reported: map[Conflict]time.Time{},
	}
	g.roster.Store(&roster{})
	if err := g.UpdateKeys(cfg.Keys); err != nil {
		return nil, err
	}
	g.members[g.self] = &record{addr: g.addr, up: true, since: time.Now(), statement: statement{tags: maps.Clone(cfg.Tags)}, verified: true}
	if err := g.updateStatement(false); err != nil {
		return nil, err
	}
	at := netip.AddrPortFrom(cfg.BindAddr, cfg.Port)
	if g.deps.Transport == nil {
		if g.deps.Transport, err = listen(at, deps.Log); err != nil {
			return nil, fmt.Errorf("open the sockets of gossip on %s: %w", at, err)
		}
	}
	g.opener = envelope.NewOpener(g.ring, func(id string) (envelope.Trust, bool) { return g.roster.Load().trust(id) })
	g.transport = newGuard(g.deps.Transport, deps.Log, envelope.NewSealer(g.self, g.ring, g.signingKey), g.opener,
		func(a netip.Addr) bool { return g.roster.Load().addrs[a] }, g.checkClaim, g.signClaim)
	if g.list, err = memberlist.Create(g.config(cfg)); err != nil {
		return nil, errors.Join(fmt.Errorf("start gossip on %s: %w", at, err), g.transport.Shutdown())
	}
	return g, nil
}

// exchangeInterval is the time between two exchanges of full state with a random member, in
// clusters of up to 32 members; memberlist makes it longer in larger ones. Gossip sends each change
// to random members in a bounded number of packets. If many nodes join a small cluster at the same
// time, a member misses a change about one time in a hundred, and gets it only by the exchange.
const exchangeInterval = 10 * time.Second

// config returns the configuration of memberlist.
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
	// A host that comes back at another address may use its node id again after this time.
	ml.DeadNodeReclaimTime = 3 * time.Second
	ml.EnableCompression = false
	d := delegate{g}
	ml.Alive, ml.Events, ml.Delegate = d, d, d
	ml.Logger, ml.LogOutput = newLogger(g.deps.Log), nil
	return ml
}

// updateStatement replaces the statement that this node makes about itself. A node that leaves
// stays leaving.
func (g *Gossip) updateStatement(leaving bool) error {
	key := g.signingKey()
	g.mu.Lock()
	defer g.mu.Unlock()
	own := g.members[g.self]
	next := statement{tags: own.statement.tags, leaving: leaving || own.statement.leaving}
	next.issued = max(nextIssued(own.statement.issued), nextIssued(g.minIssued))
	meta, err := next.sign(key, g.self, g.addr)
	if err != nil {
		return err
	}
	own.statement, own.meta = next, meta
	return nil
}

const (
	// Run calls reconnect at intervals, which begin with firstSeedInterval and double up to
	// seedInterval. The first interval is short because each manager refuses a node that has just
	// joined until the manager knows that the node is a member.
	seedInterval      = 5 * time.Second
	firstSeedInterval = 250 * time.Millisecond
	// seedsPerAttempt is how many addresses one attempt tries.
	seedsPerAttempt = 5
	// announceTimeout bounds how long this node waits for its statement to be sent to another
	// member.
	announceTimeout = 2 * time.Second
	// goodbyes is how many times a node announces that it leaves. An announcement goes to random
	// members. Of five members, about one time in 200 one gets no announcement at all. That member
	// does not learn later that the node has left, because memberlist's exchange of state does not
	// pass on the statements of dead nodes.
	goodbyes = 3
	// leaveDelay is the time for the goodbye to reach all members.
	leaveDelay = 500 * time.Millisecond
)

// Run keeps this node connected to the other members until ctx ends, and then returns nil. The node
// stays a member; see Leave and Close.
func (g *Gossip) Run(ctx context.Context) error {
	wait := firstSeedInterval
	retry := time.NewTimer(wait)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-g.conflicts:
			g.report(c)
		case <-g.announceNow:
			if err := g.announce(); err != nil {
				g.deps.Log.Warn("gossip: cannot announce this node to the other members", "err", err)
			}
		case <-g.reconnectNow:
			wait = firstSeedInterval
			retry.Reset(wait/2 + rand.N(wait))
		case <-retry.C:
			g.reconnect(ctx)
			wait = min(2*wait, seedInterval)
			retry.Reset(wait)
		}
	}
}

// announce sends a new statement of this node to the other members.
func (g *Gossip) announce() error {
	if err := g.updateStatement(false); err != nil {
		return err
	}
	return g.list.UpdateNode(announceTimeout)
}

// SetSeeds sets the addresses ("host:port", or a host on our port) that Run tries while this node
// sees no other member. Run tries the first of them soon after the call.
func (g *Gossip) SetSeeds(addrs []string) {
	g.mu.Lock()
	g.seeds = slices.Clone(addrs)
	g.mu.Unlock()
	wake(g.reconnectNow)
}

// reconnect tries to reach the addresses that unreached returns, until one answers.
func (g *Gossip) reconnect(ctx context.Context) {
	addrs, alone := g.unreached()
	if alone {
		rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	}
	for _, addr := range addrs {
		if n, err := g.Join(ctx, []string{addr}); n > 0 || ctx.Err() != nil {
			return
		} else if err != nil {
			g.deps.Log.Debug("gossip: another member does not answer", "err", err)
		}
	}
}

// triesPerInterval is how often the members of a cluster together try each member that is not up,
// in each seedInterval.
const triesPerInterval = 8

// unreached returns addresses of members that are not up, for reconnect to try. alone reports
// whether this node sees no other member.
//
// If this node sees other members, most calls return nothing: a call returns one address with the
// probability triesPerInterval*n/up. n is the number of members that are not up, and up the number
// of other members that are up. Each of the members that are up makes one call in each
// seedInterval. Together they return about triesPerInterval*n addresses, so they try each of the n
// members about triesPerInterval times, whatever the size of the cluster.
func (g *Gossip) unreached() (addrs []string, alone bool) {
	peers := g.roster.Load().peers
	g.mu.Lock()
	defer g.mu.Unlock()
	up := 0
	for id := range g.members {
		if id != g.self && g.up[id] {
			up++
		}
	}
	// seen has the addresses of members that this node has seen before. addrs has those of members
	// that only the managers list.
	var seen []string
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
			seen = append(seen, at.String())
		} else {
			addrs = append(addrs, at.String())
		}
	}
	if up == 0 {
		return pickRandom(seedsPerAttempt, seen, g.seeds, addrs), true
	}
	if n := len(seen) + len(addrs); n == 0 || rand.IntN(up) >= triesPerInterval*n {
		return nil, false
	}
	groups := [][]string{seen, addrs}
	rand.Shuffle(len(groups), func(i, j int) { groups[i], groups[j] = groups[j], groups[i] })
	return pickRandom(1, groups...), false
}

// pickRandom returns up to n random elements. It takes one from each group in turn, so that a large
// group does not crowd out the others.
func pickRandom(n int, groups ...[]string) (out []string) {
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

// Join contacts all members at addrs ("host:port", or a host on our port) and returns how many
// answered. One answer is enough to join. Join returns ErrUnavailable if no member answered, and
// ErrInvalidArgument if addrs is empty.
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
	return 0, fmt.Errorf("join gossip: no member answers (check that port %d is open for tcp and udp, and that the addresses are of this cluster): %w: %w",
		g.addr.Port(), errors.Join(errs...), errdefs.ErrUnavailable)
}

// withPort adds the port of this node to an address without one.
func (g *Gossip) withPort(addr string) string {
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr
	}
	return net.JoinHostPort(addr, strconv.Itoa(int(g.addr.Port())))
}

// UpdateKeys replaces the gossip keys; see Config.Keys. To change the key of a cluster, add the new
// key at the end on all nodes, then put it first on all nodes, then remove the old one.
func (g *Gossip) UpdateKeys(keys [][]byte) error {
	if err := validKeys(keys); err != nil {
		return err
	}
	return g.ring.Set(keys)
}

// validKeys returns ErrInvalidArgument if there is no key or one has the wrong length.
func validKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return fmt.Errorf("gossip: no key given, and gossip is never sent unencrypted: %w", errdefs.ErrInvalidArgument)
	}
	for _, k := range keys {
		if len(k) != KeySize {
			return fmt.Errorf("gossip: key of %d bytes, want %d: %w", len(k), KeySize, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// Health returns memberlist's score of this node itself. 0 means healthy. With a higher score, the
// fault may be on this node when other members seem to fail.
func (g *Gossip) Health() int { return g.list.GetHealthScore() }

// Leave tells the other members that this node leaves for good, and waits until they are likely to
// know: about a second, at most nine, or until ctx ends.
func (g *Gossip) Leave(ctx context.Context) error {
	done := make(chan error, 1)
	g.leaving.Go(func() {
		// The statement is the goodbye. memberlist's Leave only ends the probes.
		var err error
		for i := 0; i < goodbyes && err == nil; i++ {
			if err = g.updateStatement(true); err == nil {
				// The error is ignored: UpdateNode times out if the statement was sent before it
				// began to wait.
				_ = g.list.UpdateNode(announceTimeout)
			}
		}
		if err == nil {
			err = g.list.Leave(announceTimeout)
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

// Close closes the port and waits for a Leave that runs. The other members see this node fail if it
// has not left. A second call does nothing and returns the same error.
func (g *Gossip) Close() error {
	g.closeOnce.Do(func() {
		g.leaving.Wait() // memberlist panics if Leave is called after Shutdown.
		if err := g.list.Shutdown(); err != nil {
			g.closeErr = fmt.Errorf("close gossip: %w", err)
		}
	})
	return g.closeErr
}

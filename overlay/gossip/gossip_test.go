//go:build linux

package gossip_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"swarm/overlay/gossip"
	swarmv1 "swarm/proto/swarm/v1"
)

func gossipKey(b byte) []byte { return bytes.Repeat([]byte{b}, gossip.KeySize) }

// node is a running member.
type node struct {
	*gossip.Gossip
	id        string
	stop      func()
	conflicts chan gossip.Conflict
}

type cluster struct {
	t    *testing.T
	net  *network
	keys *keychain
	// listed is what the managers send about each node.
	listed map[string]*swarmv1.Peering
	// silent is whether the managers tell the nodes nothing.
	silent bool
	nodes  []*node
}

func ip(i int) string { return fmt.Sprintf("10.0.0.%d", i) }

// start runs a member with the id n<i> at 10.0.0.<i>, unless change says otherwise.
func (c *cluster) start(i int, change func(*gossip.Config)) *node {
	c.t.Helper()
	cfg := gossip.Config{
		NodeID: fmt.Sprintf("n%d", i), BindAddr: netip.MustParseAddr("0.0.0.0"), AdvertiseAddr: netip.MustParseAddr(ip(i)),
		Keys: [][]byte{gossipKey(1)}, Tags: map[string]string{gossip.TagRole: "worker"},
	}
	if change != nil {
		change(&cfg)
	}
	n := &node{id: cfg.NodeID, conflicts: make(chan gossip.Conflict, 16)}
	fresh := c.keys.get(n.id) == nil
	if fresh {
		c.keys.set(n.id, newKey(c.t))
	}
	deps := gossip.Deps{
		Log:       slog.New(slog.DiscardHandler),
		Key:       func() *ecdsa.PrivateKey { return c.keys.get(n.id) },
		Transport: c.net.attach(cfg.AdvertiseAddr.String(), gossip.DefaultPort),
		Conflict:  func(x gossip.Conflict) { n.conflicts <- x },
	}
	g, err := gossip.New(cfg, deps)
	if err != nil {
		c.t.Fatal(err)
	}
	n.Gossip = g
	n.stop = runUntilStopped(c.t, g)
	c.nodes = append(c.nodes, n)
	if fresh {
		c.list(n.id, cfg.AdvertiseAddr.String())
	}
	return n
}

// list makes the managers tell all nodes of one node, and that node of all.
func (c *cluster) list(id, addr string) {
	c.listed[id] = peering(id, addr, c.keys.get(id))
	if c.silent {
		return
	}
	for _, n := range c.nodes {
		if n.id == id {
			n.Apply(puts(slices.Collect(maps.Values(c.listed))...))
		} else {
			n.Apply(puts(c.listed[id]))
		}
	}
}

// keychain has the certificate keys of the nodes, by id.
type keychain struct {
	mu sync.Mutex // guards of
	of map[string]*ecdsa.PrivateKey
}

func (k *keychain) get(id string) *ecdsa.PrivateKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.of[id]
}

func (k *keychain) set(id string, key *ecdsa.PrivateKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.of[id] = key
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func peering(id, addr string, keys ...*ecdsa.PrivateKey) *swarmv1.Peering {
	p := &swarmv1.Peering{NodeId: id, Addr: addr, Port: 2377}
	for _, key := range keys {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			panic(err)
		}
		p.PublicKeys = append(p.PublicKeys, der)
	}
	return p
}

func puts(peerings ...*swarmv1.Peering) (out []*swarmv1.AssignmentChange) {
	for _, p := range peerings {
		out = append(out, &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Put{
			Put: &swarmv1.Assignment{Object: &swarmv1.Assignment_Peering{Peering: p}},
		}})
	}
	return out
}

func removes(id string) []*swarmv1.AssignmentChange {
	return []*swarmv1.AssignmentChange{{Change: &swarmv1.AssignmentChange_Remove{
		Remove: &swarmv1.AssignmentRef{Kind: swarmv1.AssignmentRef_PEERING, Id: id},
	}}}
}

// runUntilStopped runs g until stop is called, at the latest at the end of the test.
func runUntilStopped(t *testing.T, g *gossip.Gossip) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, g.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// newCluster returns an empty cluster. It must run in a bubble: the goroutines of memberlist end at
// their next tick after the members have stopped.
func newCluster(t *testing.T) *cluster {
	t.Cleanup(func() { time.Sleep(2 * time.Minute) })
	return &cluster{t: t, net: newNetwork(), keys: &keychain{of: map[string]*ecdsa.PrivateKey{}}, listed: map[string]*swarmv1.Peering{}}
}

// allKnow is how long news may take to reach all members. Packets may miss a member, and the first
// exchange of state comes between one and two intervals after the start.
const allKnow = 20 * time.Second

// five runs fn on a cluster of five members in a bubble.
func five(t *testing.T, fn func(t *testing.T, c *cluster, nodes []*node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		var nodes []*node
		for i := 1; i <= 5; i++ {
			n := c.start(i, nil)
			if i > 1 {
				if _, err := n.Join(t.Context(), []string{ip(1)}); err != nil {
					t.Fatal(err)
				}
			}
			nodes = append(nodes, n)
		}
		for _, n := range nodes {
			n.await(t, allKnow, "n1 alive, n2 alive, n3 alive, n4 alive, n5 alive")
		}
		fn(t, c, nodes)
	})
}

func (n *node) statuses() (string, <-chan struct{}) {
	members, changed := n.Members()
	var s []string
	for _, m := range members {
		s = append(s, m.ID+" "+string(m.Status))
	}
	return strings.Join(s, ", "), changed
}

// await waits until the members and their statuses are as wanted, and returns how long that took.
func (n *node) await(t *testing.T, limit time.Duration, want string) time.Duration {
	t.Helper()
	start := time.Now()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		got, changed := n.statuses()
		if got == want {
			return time.Since(start)
		}
		select {
		case <-changed:
		case <-timeout.C:
			t.Fatalf("after %s: got %s, want %s", limit, got, want)
		}
	}
}

func TestMembers_DeadMemberFailsWithinFourSeconds(t *testing.T) {
	five(t, func(t *testing.T, _ *cluster, nodes []*node) {
		nodes[4].stop()
		killed := time.Now()
		for _, n := range nodes[:4] {
			n.await(t, 4*time.Second, "n1 alive, n2 alive, n3 alive, n4 alive, n5 failed")
		}
		t.Logf("known everywhere after %s", time.Since(killed))
		m, ok := nodes[0].Member("n5")
		if !ok || m.Since.Before(killed) || m.Addr.String() != "10.0.0.5:7946" {
			t.Errorf("the dead member: %+v, killed at %s", m, killed)
		}
	})
}

func TestMembers_BlockedMemberFailsAndComesBack(t *testing.T) {
	five(t, func(t *testing.T, c *cluster, nodes []*node) {
		c.net.setDrops(func(from, to string) bool { return (from == ip(3)) != (to == ip(3)) })
		nodes[0].await(t, 4*time.Second, "n1 alive, n2 alive, n3 failed, n4 alive, n5 alive")
		// No other member confirms the suspicion, so it takes longer.
		nodes[2].await(t, time.Minute, "n1 failed, n2 failed, n3 alive, n4 failed, n5 failed")
		if nodes[2].Health() == 0 {
			t.Error("the blocked node finds nothing wrong with itself")
		}
		time.Sleep(5 * time.Minute)
		c.net.setDrops(func(string, string) bool { return false })
		for _, n := range nodes {
			n.await(t, 30*time.Second, "n1 alive, n2 alive, n3 alive, n4 alive, n5 alive")
		}
	})
}

func TestMembers_PacketLossIsNotAFailure(t *testing.T) {
	five(t, func(t *testing.T, c *cluster, nodes []*node) {
		// Every fifth packet is lost, by count, so that each run of the test is the same.
		sent := 0
		c.net.setDrops(func(string, string) bool { sent++; return sent%5 == 0 })
		for range 60 {
			time.Sleep(time.Second)
			if got, _ := nodes[0].statuses(); got != "n1 alive, n2 alive, n3 alive, n4 alive, n5 alive" {
				t.Fatalf("members: %s", got)
			}
		}
	})
}

func TestLeave_IsNotAFailure(t *testing.T) {
	five(t, func(t *testing.T, _ *cluster, nodes []*node) {
		if err := nodes[4].Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes[:4] {
			n.await(t, 4*time.Second, "n1 alive, n2 alive, n3 alive, n4 alive, n5 left")
		}
	})
}

func TestUpdateKeys_RotatesWithoutAFailure(t *testing.T) {
	five(t, func(t *testing.T, _ *cluster, nodes []*node) {
		for _, keys := range [][][]byte{{gossipKey(1), gossipKey(2)}, {gossipKey(2), gossipKey(1)}, {gossipKey(2)}} {
			for _, n := range nodes {
				if err := n.UpdateKeys(keys); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
			}
		}
		time.Sleep(time.Minute)
		for _, n := range nodes {
			if got, _ := n.statuses(); got != "n1 alive, n2 alive, n3 alive, n4 alive, n5 alive" {
				t.Errorf("members after the rotation: %s", got)
			}
		}
	})
}

func TestJoin_WrongKeyIsRefused(t *testing.T) {
	five(t, func(t *testing.T, c *cluster, nodes []*node) {
		n := c.start(6, func(cfg *gossip.Config) { cfg.Keys = [][]byte{gossipKey(9)} })
		if _, err := n.Join(t.Context(), []string{ip(1), ip(2)}); !errors.Is(err, errdefs.ErrUnavailable) {
			t.Errorf("join with a wrong key: got %v, want unavailable", err)
		}
		time.Sleep(time.Minute)
		if got, _ := nodes[0].statuses(); got != "n1 alive, n2 alive, n3 alive, n4 alive, n5 alive" {
			t.Errorf("members: %s", got)
		}
	})
}

func TestConflict_ASecondMachineIsReportedAndIgnored(t *testing.T) {
	five(t, func(t *testing.T, c *cluster, nodes []*node) {
		clone := c.start(6, func(cfg *gossip.Config) { cfg.NodeID = "n2" })
		// Whether the clone accepts the others does not matter here.
		_, _ = clone.Join(t.Context(), []string{ip(1)})
		time.Sleep(90 * time.Second)
		real, copied := netip.MustParseAddrPort("10.0.0.2:7946"), netip.MustParseAddrPort("10.0.0.6:7946")
		// Members do not pass the claims of the clone on, so only n1 and the clone see a conflict.
		for who, tt := range map[*node]gossip.Conflict{
			nodes[0]: {NodeID: "n2", Member: real, Other: copied},
			clone:    {NodeID: "n2", Member: copied, Other: real},
		} {
			select {
			case got := <-who.conflicts:
				if got != tt {
					t.Errorf("conflict %v, want %v", got, tt)
				}
			default:
				t.Errorf("conflict %v was not reported", tt)
			}
			if n := len(who.conflicts); n > 2 {
				t.Errorf("conflict %v was reported %d times more within 90 s", tt, n)
			}
		}
		for _, n := range nodes {
			if m, _ := n.Member("n2"); m.Addr != real || m.Status != gossip.Alive {
				t.Errorf("n2 is now %+v", m)
			}
		}
	})
}

func TestReturn_WithAnotherAddress(t *testing.T) {
	five(t, func(t *testing.T, c *cluster, nodes []*node) {
		nodes[4].stop()
		nodes[0].await(t, 4*time.Second, "n1 alive, n2 alive, n3 alive, n4 alive, n5 failed")
		time.Sleep(10 * time.Second)
		back := c.start(15, func(cfg *gossip.Config) { cfg.NodeID = "n5" })
		nodes[4] = back
		c.list("n5", ip(15))
		if _, err := back.Join(t.Context(), []string{ip(1)}); err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes {
			n.await(t, allKnow, "n1 alive, n2 alive, n3 alive, n4 alive, n5 alive")
		}
		if m, _ := nodes[1].Member("n5"); m.Addr.String() != "10.0.0.15:7946" {
			t.Errorf("n5 came back as %+v", m)
		}
		if len(nodes[1].conflicts) > 0 {
			t.Errorf("a host with a new address is called a conflict: %v", <-nodes[1].conflicts)
		}
	})
}

func TestRun_ALoneNodeTriesItsSeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.silent = true // The managers have not listed any member to n2.
		c.start(2, nil).SetSeeds([]string{ip(1)})
		time.Sleep(time.Minute)
		c.start(1, nil).await(t, 10*time.Second, "n1 alive, n2 alive")
	})
}

func TestNew_Refuses(t *testing.T) {
	good := gossip.Config{
		NodeID: "n", BindAddr: netip.MustParseAddr("127.0.0.1"), AdvertiseAddr: netip.MustParseAddr("127.0.0.1"), Keys: [][]byte{gossipKey(1)},
	}
	for name, change := range map[string]func(*gossip.Config){
		"no id":                   func(c *gossip.Config) { c.NodeID = "" },
		"no key":                  func(c *gossip.Config) { c.Keys = nil },
		"short key":               func(c *gossip.Config) { c.Keys = [][]byte{{1, 2, 3}} },
		"no address":              func(c *gossip.Config) { c.BindAddr = netip.Addr{} },
		"unspecified advertised":  func(c *gossip.Config) { c.AdvertiseAddr = netip.IPv4Unspecified() },
		"timeout above the probe": func(c *gossip.Config) { c.ProbeTimeout = time.Second },
	} {
		cfg := good
		change(&cfg)
		if _, err := gossip.New(cfg, gossip.Deps{Log: slog.New(slog.DiscardHandler), Key: func() *ecdsa.PrivateKey { return nil }}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: got %v, want invalid argument", name, err)
		}
	}
}

// TestSockets_RejoinFromTheRoster uses real sockets. A member that restarts finds the others from
// the list that the managers sent before.
func TestSockets_RejoinFromTheRoster(t *testing.T) {
	one, two := newKey(t), newKey(t)
	changes := puts(peering("n1", "127.77.0.1", one), peering("n2", "127.77.0.2", two))
	start := func(i int, key *ecdsa.PrivateKey) *node {
		t.Helper()
		addr := netip.MustParseAddr(fmt.Sprintf("127.77.0.%d", i))
		g, err := gossip.New(gossip.Config{
			NodeID: fmt.Sprintf("n%d", i), BindAddr: addr, AdvertiseAddr: addr, Keys: [][]byte{gossipKey(1)},
		}, gossip.Deps{Log: slog.New(slog.DiscardHandler), Key: func() *ecdsa.PrivateKey { return key }})
		if err != nil {
			t.Fatal(err)
		}
		g.Apply(changes)
		return &node{Gossip: g, stop: runUntilStopped(t, g)}
	}
	a, b := start(1, one), start(2, two)
	a.await(t, 10*time.Second, "n1 alive, n2 alive")
	b.await(t, 10*time.Second, "n1 alive, n2 alive")
	b.stop()
	b = start(2, two)
	b.await(t, 10*time.Second, "n1 alive, n2 alive")
}

func TestPing_AnswersWhileTheMemberIsThere(t *testing.T) {
	five(t, func(t *testing.T, c *cluster, nodes []*node) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := nodes[0].Ping(ctx, "n2"); err != nil {
			t.Errorf("ping a member: %v", err)
		}
		if err := nodes[0].Ping(ctx, "n9"); !errdefs.IsNotFound(err) {
			t.Errorf("ping nobody: got %v, want not found", err)
		}
		nodes[1].stop()
		if err := nodes[0].Ping(ctx, "n2"); !errdefs.IsUnavailable(err) {
			t.Errorf("ping one that is gone: got %v, want unavailable", err)
		}
	})
}

//go:build linux

package gossip_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"swarm/overlay/gossip"
)

func key(b byte) []byte { return bytes.Repeat([]byte{b}, gossip.KeySize) }

// node is a running member.
type node struct {
	*gossip.Gossip
	stop      func()
	conflicts chan gossip.Conflict
}

type cluster struct {
	t   *testing.T
	net *network
}

func ip(i int) string { return fmt.Sprintf("10.0.0.%d", i) }

// start runs a member with the id n<i> at 10.0.0.<i>, unless change says otherwise.
func (c *cluster) start(i int, change func(*gossip.Config)) *node {
	c.t.Helper()
	cfg := gossip.Config{
		NodeID: fmt.Sprintf("n%d", i), BindAddr: netip.MustParseAddr("0.0.0.0"), AdvertiseAddr: netip.MustParseAddr(ip(i)),
		Keys: [][]byte{key(1)}, Tags: map[string]string{gossip.TagRole: "worker"},
	}
	if change != nil {
		change(&cfg)
	}
	n := &node{conflicts: make(chan gossip.Conflict, 16)}
	deps := gossip.Deps{
		Log:       slog.New(slog.DiscardHandler),
		Transport: c.net.attach(cfg.AdvertiseAddr.String(), gossip.DefaultPort),
		Conflict:  func(x gossip.Conflict) { n.conflicts <- x },
	}
	g, err := gossip.New(cfg, deps)
	if err != nil {
		c.t.Fatal(err)
	}
	n.Gossip = g
	n.stop = runUntilStopped(c.t, g)
	return n
}

// runUntilStopped stops at the end of the test if nobody did before.
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

// newCluster is for a bubble: what serf and memberlist run ends at their next tick
// after the members have been stopped.
func newCluster(t *testing.T) *cluster {
	t.Cleanup(func() { time.Sleep(2 * time.Minute) })
	return &cluster{t: t, net: newNetwork()}
}

// allKnow is how long news may take to everybody: packets may miss a member, and the first exchange of all that is known
// comes between one and two intervals after the start.
const allKnow = 20 * time.Second

// five runs fn on a cluster of five, in a bubble of its own time.
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

// await waits for the members to be as wanted and returns how long that took.
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

func TestMembers_ADeadOneIsKnownWithinFourSeconds(t *testing.T) {
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

func TestMembers_ABlockedOneFailsAndComesBack(t *testing.T) {
	five(t, func(t *testing.T, c *cluster, nodes []*node) {
		c.net.setDrops(func(from, to string) bool { return (from == ip(3)) != (to == ip(3)) })
		nodes[0].await(t, 4*time.Second, "n1 alive, n2 alive, n3 failed, n4 alive, n5 alive")
		// With nobody to confirm a suspicion, it takes its time.
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

func TestMembers_LossIsNoDeath(t *testing.T) {
	five(t, func(t *testing.T, c *cluster, nodes []*node) {
		// Every fifth packet is lost, by count: the test is the same each time.
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
		for _, keys := range [][][]byte{{key(1), key(2)}, {key(2), key(1)}, {key(2)}} {
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
		n := c.start(6, func(cfg *gossip.Config) { cfg.Keys = [][]byte{key(9)} })
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
		// Whether the clone may hear the others is of no interest here.
		_, _ = clone.Join(t.Context(), []string{ip(1)})
		time.Sleep(90 * time.Second)
		real, copied := netip.MustParseAddrPort("10.0.0.2:7946"), netip.MustParseAddrPort("10.0.0.6:7946")
		// The others ignore the clone, so that only those it talks to hear of it.
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
				t.Errorf("nobody was told of %v", tt)
			}
			if n := len(who.conflicts); n > 2 {
				t.Errorf("%v was told %d times more within 90 s", tt, n)
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
		g, err := gossip.New(gossip.Config{
			NodeID: "n2", BindAddr: netip.MustParseAddr("0.0.0.0"), AdvertiseAddr: netip.MustParseAddr(ip(2)), Keys: [][]byte{key(1)},
		}, gossip.Deps{
			Log: slog.New(slog.DiscardHandler), Transport: c.net.attach(ip(2), gossip.DefaultPort),
		})
		if err != nil {
			t.Fatal(err)
		}
		runUntilStopped(t, g)
		g.SetSeeds([]string{ip(1)})
		time.Sleep(time.Minute)
		first := c.start(1, nil)
		first.await(t, 10*time.Second, "n1 alive, n2 alive")
	})
}

func TestNew_Refuses(t *testing.T) {
	good := gossip.Config{
		NodeID: "n", BindAddr: netip.MustParseAddr("127.0.0.1"), AdvertiseAddr: netip.MustParseAddr("127.0.0.1"), Keys: [][]byte{key(1)},
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
		if _, err := gossip.New(cfg, gossip.Deps{Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: got %v, want invalid argument", name, err)
		}
	}
}

// TestSockets_RejoinFromTheSnapshot uses real sockets: a member that restarts finds
// the others by what it has written down.
func TestSockets_RejoinFromTheSnapshot(t *testing.T) {
	dir := t.TempDir()
	start := func(i int) *node {
		t.Helper()
		addr := netip.MustParseAddr(fmt.Sprintf("127.77.0.%d", i))
		g, err := gossip.New(gossip.Config{
			NodeID: fmt.Sprintf("n%d", i), BindAddr: addr, AdvertiseAddr: addr, Keys: [][]byte{key(1)},
			SnapshotPath: filepath.Join(dir, fmt.Sprint(i)),
		}, gossip.Deps{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return &node{Gossip: g, stop: runUntilStopped(t, g)}
	}
	a, b := start(1), start(2)
	if _, err := b.Join(t.Context(), []string{"127.77.0.1"}); err != nil {
		t.Fatal(err)
	}
	a.await(t, 5*time.Second, "n1 alive, n2 alive")
	b.await(t, 5*time.Second, "n1 alive, n2 alive")
	b.stop()
	b = start(2)
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

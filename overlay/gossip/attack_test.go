//go:build linux

package gossip_test

import (
	"bytes"
	"crypto/ecdsa"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"swarm/overlay/gossip"
	"swarm/overlay/gossip/envelope"
)

const allAlive = "n1 alive, n2 alive, n3 alive, n4 alive, n5 alive"

// message encodes a memberlist message.
func message(kind byte, body map[string]any) []byte {
	out := bytes.NewBuffer([]byte{kind})
	if err := codec.NewEncoder(out, &codec.MsgpackHandle{}).Encode(body); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// sendAs sends a message to nodes, sealed with the id and keys of the member as.
func (c *cluster) sendAs(as string, nodes []*node, b []byte) {
	c.t.Helper()
	ring := &envelope.Ring{}
	if err := ring.Set([][]byte{gossipKey(1)}); err != nil {
		c.t.Fatal(err)
	}
	sealer := envelope.NewSealer(as, ring, func() *ecdsa.PrivateKey { return c.keys.get(as) })
	from := c.net.attach("10.0.0.66", gossip.DefaultPort)
	for i := range nodes {
		sealed, err := sealer.Packet(b)
		if err != nil {
			c.t.Fatal(err)
		}
		if _, err := from.WriteTo(sealed, ip(i+1)+":7946"); err != nil {
			c.t.Fatal(err)
		}
	}
}

// A member sends a goodbye in another member's name. No node accepts it, and the other member
// objects.
func TestAttack_ForgedGoodbyes(t *testing.T) {
	five(t, func(t *testing.T, c *cluster, nodes []*node) {
		for i := range 100 {
			c.sendAs("n2", nodes, message(5, map[string]any{"Incarnation": uint32(10 * i), "Node": "n3", "From": "n3"}))
			time.Sleep(100 * time.Millisecond)
			for _, n := range nodes {
				if m, _ := n.Member("n3"); m.Status == gossip.Left {
					t.Fatalf("%s: status of n3: got left, want not left", n.id)
				}
			}
		}
		for _, n := range nodes {
			n.await(t, allKnow, allAlive)
		}
	})
}

// A member claims that another is dead, with the highest possible incarnation and with the highest
// that passes the filter. The other member objects, and is alive for all nodes.
func TestAttack_ForgedIncarnations(t *testing.T) {
	for name, incarnation := range map[string]func() uint32{
		"the last one":         func() uint32 { return 1<<32 - 1 },
		"half of them":         func() uint32 { return 1 << 31 },
		"of the clock":         func() uint32 { return uint32(time.Now().Unix()) },
		"a little before that": func() uint32 { return uint32(time.Now().Unix() - 1) },
	} {
		t.Run(name, func(t *testing.T) {
			five(t, func(t *testing.T, c *cluster, nodes []*node) {
				for _, kind := range []byte{3, 5, 5} {
					c.sendAs("n2", nodes, message(kind, map[string]any{"Incarnation": incarnation(), "Node": "n3", "From": "n2"}))
					time.Sleep(100 * time.Millisecond)
				}
				time.Sleep(time.Minute)
				for _, n := range nodes {
					n.await(t, 0, allAlive)
				}
			})
		})
	}
}

// A member announces a new node, and another address of a node. It signs the metadata of both with
// its own key.
func TestAttack_ForgedMembers(t *testing.T) {
	five(t, func(t *testing.T, c *cluster, nodes []*node) {
		for _, id := range []string{"n3", "n9"} {
			c.sendAs("n2", nodes, message(4, map[string]any{
				"Incarnation": 1000, "Node": id, "Addr": []byte{10, 0, 0, 66}, "Port": 7946, "Meta": make([]byte, 20), "Vsn": []byte{1, 5, 2, 0, 0, 0},
			}))
		}
		time.Sleep(time.Minute)
		for _, n := range nodes {
			if got, _ := n.statuses(); got != allAlive {
				t.Errorf("%s: %s", n.id, got)
			}
			if m, _ := n.Member("n3"); m.Addr.Addr().String() != ip(3) || m.Tags[gossip.TagRole] != "worker" {
				t.Errorf("%s: got n3 as %+v, want its own address and tags", n.id, m)
			}
			if len(n.conflicts) > 0 {
				t.Errorf("%s: a forgery was reported as a conflict: %v", n.id, <-n.conflicts)
			}
		}
	})
}

// A removed node runs on with its key. The other nodes forget it at once and for good.
func TestAttack_RemovedMember(t *testing.T) {
	five(t, func(t *testing.T, _ *cluster, nodes []*node) {
		const without = "n1 alive, n2 alive, n3 alive, n4 alive"
		for _, n := range nodes[:4] {
			n.Apply(removes("n5"))
			n.await(t, time.Second, without)
		}
		for range 60 {
			time.Sleep(time.Second)
			for _, n := range nodes[:4] {
				if got, _ := n.statuses(); got != without {
					t.Fatalf("%s: %s", n.id, got)
				}
			}
		}
		if _, err := nodes[4].Join(t.Context(), []string{ip(1)}); err == nil {
			t.Error("the removed node joined, want an error")
		}
	})
}

// Statements that a node received before it knew the keys of the members are verified when it does.
func TestAttack_ForgedBeforeTheFirstList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.silent = true
		n := c.start(1, nil)
		c.keys.set("x", newKey(t))
		c.sendAs("x", []*node{n}, message(4, map[string]any{
			"Incarnation": 1, "Node": "forged", "Addr": []byte{10, 0, 0, 66}, "Port": 7946, "Meta": make([]byte, 20), "Vsn": []byte{1, 5, 2, 0, 0, 0},
		}))
		n.await(t, time.Second, "forged alive, n1 alive")
		n.Apply(puts(c.listed["n1"]))
		n.await(t, time.Second, "n1 alive")
	})
}

// The managers list a new member late. The others find it soon after that.
func TestRoster_NewMemberIsListedLate(t *testing.T) {
	five(t, func(t *testing.T, c *cluster, nodes []*node) {
		c.silent = true
		late := c.start(6, nil)
		late.SetSeeds([]string{ip(1)})
		time.Sleep(10 * time.Second)
		nodes[0].await(t, 0, allAlive)
		c.silent = false
		c.list("n6", ip(6))
		for _, n := range append(nodes, late) {
			n.await(t, allKnow, allAlive+", n6 alive")
		}
	})
}

// The certificate of a node is renewed. The managers list the new key beside the old one, and later
// the new one alone.
func TestKey_RenewedWithoutAFailure(t *testing.T) {
	five(t, func(t *testing.T, c *cluster, nodes []*node) {
		old, renewed := c.keys.get("n3"), newKey(t)
		c.keys.set("n3", renewed) // The node has the key before the managers list it.
		time.Sleep(10 * time.Second)
		for _, p := range [][]*ecdsa.PrivateKey{{renewed, old}, {renewed}} {
			for _, n := range nodes {
				n.Apply(puts(peering("n3", ip(3), p...)))
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(30 * time.Second)
			for _, n := range nodes {
				n.await(t, 0, allAlive)
			}
		}
		// n6 has received nothing from n3 yet, and verifies its statement with the new key.
		sixth := c.start(6, nil)
		c.listed["n3"] = peering("n3", ip(3), renewed)
		c.list("n6", ip(6))
		sixth.await(t, allKnow, allAlive+", n6 alive")
	})
}

func TestLeave_AndReturn(t *testing.T) {
	five(t, func(t *testing.T, c *cluster, nodes []*node) {
		if err := nodes[4].Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		nodes[4].stop()
		nodes[0].await(t, 4*time.Second, "n1 alive, n2 alive, n3 alive, n4 alive, n5 left")
		back := c.start(5, nil)
		c.list("n5", ip(5))
		for _, n := range append(nodes[:4], back) {
			n.await(t, allKnow, allAlive)
		}
	})
}

//go:build linux

package gossip_test

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/binary"
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

// statementBody is where the signed part of a statement begins. Its first 4 bytes are the
// incarnation.
const statementBody = 73

// unsigned returns a statement with that incarnation, and without a signature.
func unsigned(incarnation uint32) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, statementBody), incarnation), make([]byte, 9)...)
}

// envelopes returns a Sealer and an Opener with the id and keys of the member as.
func (c *cluster) envelopes(as string) (*envelope.Sealer, *envelope.Opener) {
	c.t.Helper()
	ring := &envelope.Ring{}
	if err := ring.Set([][]byte{gossipKey(1)}); err != nil {
		c.t.Fatal(err)
	}
	anyKey := func(string) (envelope.Trust, bool) { return envelope.Trust{AnyKey: true}, true }
	return envelope.NewSealer(as, ring, func() *ecdsa.PrivateKey { return c.keys.get(as) }), envelope.NewOpener(ring, anyKey)
}

// sendAs sends a message to nodes, sealed with the id and keys of the member as.
func (c *cluster) sendAs(as string, nodes []*node, b []byte) {
	c.t.Helper()
	sealer, _ := c.envelopes(as)
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
				"Incarnation": 1000, "Node": id, "Addr": []byte{10, 0, 0, 66}, "Port": 7946, "Meta": unsigned(1000), "Vsn": []byte{1, 5, 2, 0, 0, 0},
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
			"Incarnation": 1, "Node": "forged", "Addr": []byte{10, 0, 0, 66}, "Port": 7946, "Meta": unsigned(1), "Vsn": []byte{1, 5, 2, 0, 0, 0},
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

// exchange sends states to a node in an exchange of state, as the member as. It returns the states
// in the answer.
func (c *cluster) exchange(as string, at *node, states ...map[string]any) (answered []map[string]any) {
	c.t.Helper()
	conn, err := c.net.attach("10.0.0.67", gossip.DefaultPort).DialTimeout(ip(int(at.id[1]-'0'))+":7946", time.Second)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	sealer, opener := c.envelopes(as)
	b := message(6, map[string]any{"Nodes": len(states), "UserStateLen": 0, "Join": false})
	for _, state := range states {
		b = append(b, message(0, state)[1:]...)
	}
	request, err := sealer.Message(b)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := conn.Write(request); err != nil {
		c.t.Fatal(err)
	}
	_, answer, err := opener.ReadMessage(conn)
	if err != nil {
		return nil // The node has refused the states.
	}
	decoder := codec.NewDecoderBytes(answer[1:], &codec.MsgpackHandle{})
	var header struct{ Nodes int }
	decoder.MustDecode(&header)
	for range header.Nodes {
		state := map[string]any{}
		decoder.MustDecode(&state)
		answered = append(answered, state)
	}
	return answered
}

// stateOf returns what a node tells the member as about the node id.
func (c *cluster) stateOf(as string, at *node, id string) map[string]any {
	c.t.Helper()
	for _, state := range c.exchange(as, at) {
		if string(state["Name"].([]byte)) == id {
			return state
		}
	}
	c.t.Fatalf("%s does not know %s", at.id, id)
	return nil
}

// A member claims in exchanges of state that a live node is dead, with an incarnation that only a
// claim of the node itself may have. The node does not have to object with a higher one, which the
// others would refuse.
func TestAttack_ForgedDeathInAnExchangeOfState(t *testing.T) {
	for _, number := range []int{1, 2, 3} { // suspect, dead, left
		five(t, func(t *testing.T, c *cluster, nodes []*node) {
			state := c.stateOf("n2", nodes[0], "n5")
			state["State"] = number
			for range 30 {
				state["Incarnation"] = uint32(time.Now().Unix() + 3600)
				for _, n := range nodes {
					c.exchange("n2", n, state)
				}
				time.Sleep(time.Second)
			}
			for _, n := range nodes {
				n.await(t, 0, allAlive)
			}
			if n := c.stateOf("n2", nodes[0], "n5")["Incarnation"].(int64); n > time.Now().Unix() {
				t.Errorf("state %d: incarnation of n5: got %d, which is above the clock", number, n)
			}
		})
	}
}

// A member passes on the true statement of a dead node, with an incarnation that the node has not
// signed. The other nodes find that the node has failed as soon as without the attack.
func TestAttack_DeadNodeWithRaisedIncarnation(t *testing.T) {
	for name, incarnation := range map[string]func(last uint32) uint32{
		"the same one":     func(last uint32) uint32 { return last },
		"the next one":     func(last uint32) uint32 { return last + 1 },
		"the highest ones": func(uint32) uint32 { return uint32(time.Now().Unix() + 3600) },
	} {
		t.Run(name, func(t *testing.T) {
			five(t, func(t *testing.T, c *cluster, nodes []*node) {
				state := c.stateOf("n2", nodes[0], "n5")
				last := uint32(state["Incarnation"].(int64))
				nodes[4].stop()
				for range 200 {
					last = incarnation(last)
					changed := bytes.Clone(state["Meta"].([]byte))
					binary.BigEndian.PutUint32(changed[statementBody:], last)
					for _, meta := range [][]byte{state["Meta"].([]byte), changed} {
						c.sendAs("n2", nodes[:4], message(4, map[string]any{
							"Incarnation": last, "Node": "n5", "Addr": state["Addr"], "Port": state["Port"], "Meta": meta, "Vsn": state["Vsn"],
						}))
					}
					time.Sleep(100 * time.Millisecond)
				}
				for _, n := range nodes[:4] {
					n.await(t, 0, "n1 alive, n2 alive, n3 alive, n4 alive, n5 failed")
				}
			})
		})
	}
}

// A member passes on the true statement of a live node to all nodes, that node included, with
// incarnations that the node has not signed. The node does not sign a higher incarnation because of
// it, so true claims that the node is dead remain valid. Without an attack no node objects at all.
func TestAttack_LiveNodeWithRaisedIncarnation(t *testing.T) {
	five(t, func(t *testing.T, c *cluster, nodes []*node) {
		time.Sleep(time.Minute) // All statements have passed through all members.
		before := c.stateOf("n2", nodes[0], "n5")["Incarnation"]
		for range 100 {
			state := c.stateOf("n2", nodes[0], "n5")
			high := uint32(time.Now().Unix() + 3600)
			changed := bytes.Clone(state["Meta"].([]byte))
			binary.BigEndian.PutUint32(changed[statementBody:], high)
			c.sendAs("n2", nodes, message(4, map[string]any{
				"Incarnation": high, "Node": "n5", "Addr": state["Addr"], "Port": state["Port"], "Meta": changed, "Vsn": state["Vsn"],
			}))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		if after := c.stateOf("n2", nodes[0], "n5")["Incarnation"]; after != before {
			t.Errorf("incarnation of n5: got %v, want %v as before", after, before)
		}
		for _, n := range nodes {
			n.await(t, 0, allAlive)
		}
	})
}

package scenarios

import (
	"bytes"
	"compress/lzw"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"swarm/dev"
	"swarm/overlay/gossip/envelope"
)

// TestAttackGossip attacks the gossip of a cluster: as a stranger, with the gossip key from a
// worker's state folder, and with the disk of a removed node.
func TestAttackGossip(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	t.Parallel()
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 4, Managers: 1})
	for _, step := range []struct {
		name string
		run  func(*testing.T, *testCluster)
	}{
		{"garbage", testGossipGarbage},
		{"forged leave", testForgedLeave},
		{"keys", testGossipKeys},
		{"empty query", testEmptyQuery},
		{"removed node", testRemovedGossips},
	} {
		t.Run(step.name, func(t *testing.T) { step.run(t, c.in(t)) })
	}
}

// These are types of memberlist's messages and of serf's.
const (
	kindPing, kindSuspect, kindAlive, kindDead = 0, 3, 4, 5
	kindPushPull, kindUser, kindCompressed     = 6, 8, 9
	kindEncrypted                              = 10
	serfLeave, serfQuery, serfQueryResponse    = 0, 4, 5
)

// gossiper is an attacker that has the files of a member.
type gossiper struct {
	c      *testCluster
	at     dev.Host // the host whose network the attacker uses
	keys   [][]byte
	sealer *envelope.Sealer // seals with the key of the member's certificate
}

// nodeFile has the fields that the attacker reads from a state folder.
type nodeFile struct {
	NodeID     string   `json:"node_id"`
	GossipKeys [][]byte `json:"gossip_keys"`
}

func (c *testCluster) nodeFile(h dev.Host) nodeFile {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.StateDir, "node.json"))
	if err != nil {
		c.t.Fatal(err)
	}
	var f nodeFile
	if err := json.Unmarshal(text, &f); err != nil {
		c.t.Fatal(err)
	}
	return f
}

func (c *testCluster) gossiper(h dev.Host) *gossiper {
	c.t.Helper()
	f := c.nodeFile(h)
	if len(f.GossipKeys) == 0 {
		c.t.Fatalf("no gossip key in the state folder of %s", h.Name)
	}
	ring, key := &envelope.Ring{}, c.stolen(h).Key
	if err := ring.Set(f.GossipKeys); err != nil {
		c.t.Fatal(err)
	}
	return &gossiper{
		c: c, at: h, keys: f.GossipKeys,
		sealer: envelope.NewSealer(f.NodeID, ring, func() *ecdsa.PrivateKey { return key }),
	}
}

func message(kind byte, body any) []byte {
	out := bytes.NewBuffer([]byte{kind})
	if err := codec.NewEncoder(out, &codec.MsgpackHandle{}).Encode(body); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// encrypted returns a message as memberlist encrypts it. extra is authenticated but not encrypted.
func (g *gossiper) encrypted(message, extra []byte) []byte {
	block, err := aes.NewCipher(g.keys[0])
	if err != nil {
		g.c.t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		g.c.t.Fatal(err)
	}
	nonce := make([]byte, 12)
	_, _ = rand.Read(nonce)
	return gcm.Seal(append([]byte{1}, nonce...), nonce, message, extra)
}

// say sends messages to a host by UDP, first as memberlist encrypts them and then in envelopes with
// the member's signature.
func (g *gossiper) say(to dev.Host, messages ...[]byte) {
	g.c.t.Helper()
	for _, m := range messages {
		sealed, err := g.sealer.Packet(m)
		if err != nil {
			g.c.t.Fatal(err)
		}
		g.packet(to, g.encrypted(m, nil), sealed)
	}
}

// ask sends a message to a host by TCP, in both forms, and returns the number of bytes in the
// answers.
func (g *gossiper) ask(to dev.Host, message []byte) int {
	g.c.t.Helper()
	head := binary.BigEndian.AppendUint32([]byte{kindEncrypted}, uint32(1+12+len(message)+16))
	n := len(g.stream(to, append(head, g.encrypted(message, head)...)))
	if len(message) > envelope.MaxMessage {
		return n
	}
	sealed, err := g.sealer.Message(message)
	if err != nil {
		g.c.t.Fatal(err)
	}
	return n + len(g.stream(to, sealed))
}

// dial connects to a host's gossip port.
func (g *gossiper) dial(network string, to dev.Host) net.Conn {
	g.c.t.Helper()
	conn, err := g.c.dialFrom(g.at)(g.c.ctx, network, net.JoinHostPort(to.Address.String(), "7946"))
	if err != nil {
		g.c.t.Fatal(err)
	}
	return conn
}

func (g *gossiper) packet(to dev.Host, packets ...[]byte) {
	g.c.t.Helper()
	conn := g.dial("udp", to)
	defer conn.Close()
	for _, p := range packets {
		_, _ = conn.Write(p) // The write fails if the daemon has ended.
	}
}

// stream sends data to the host by TCP and returns the bytes that it receives within a second.
func (g *gossiper) stream(to dev.Host, data []byte) []byte {
	g.c.t.Helper()
	conn := g.dial("tcp", to)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write(data)
	answer, _ := io.ReadAll(conn)
	return answer
}

func query(name string, payload []byte) []byte {
	return append([]byte{kindUser}, message(serfQuery, map[string]any{
		"LTime": uint64(time.Now().Unix()), "ID": uint32(time.Now().UnixNano()), "Addr": []byte{10, 0, 0, 1}, "Port": 7946, "SourceNode": "x",
		"Timeout": int64(time.Minute), "Name": "_serf_" + name, "Payload": payload,
	})...)
}

// bomb returns a packet that expands to a message of 64 MiB.
func bomb() []byte {
	var squeezed bytes.Buffer
	w := lzw.NewWriter(&squeezed, lzw.LSB, 8)
	_, _ = w.Write(make([]byte, 20<<20))
	_ = w.Close()
	return message(kindCompressed, map[string]any{"Algo": 0, "Buf": squeezed.Bytes()})
}

// testGossipGarbage floods the gossip ports with data that no member would send.
func testGossipGarbage(t *testing.T, c *testCluster) {
	g, victim := c.gossiper(c.hosts[1]), c.hosts[0]
	before := c.resident(victim)
	noise := make([]byte, 60000)
	_, _ = rand.Read(noise)
	bomb := bomb()
	nested := message(kindPing, map[string]any{"SeqNo": 1})
	for range 2000 {
		nested = append([]byte{7, 1, byte(len(nested) >> 8), byte(len(nested))}, nested...)
	}
	short := message(kindPushPull, map[string]any{"Nodes": 1, "UserStateLen": 0, "Join": false})
	short = append(short, message(0, map[string]any{"Name": "x", "Addr": []byte{10, 0, 0, 1}, "Port": 1, "State": 0, "Vsn": []byte{1, 5}})[1:]...)
	many := message(kindPushPull, map[string]any{"Nodes": 1 << 20, "UserStateLen": 0, "Join": false})
	for range 20 {
		g.packet(victim, noise, noise[:1], noise[:20], bytes.Repeat([]byte{8, 0, 0, 0}, 100), append([]byte{244, 3}, "abc"...))
		g.say(victim, nested, []byte{kindCompressed}, bomb)
	}
	var open []net.Conn
	for range 100 {
		conn := g.dial("tcp", victim)
		_, _ = conn.Write(append([]byte{kindEncrypted, 1, 0, 0, 0}, noise...))
		_, _ = conn.Write(noise)
		open = append(open, conn)
	}
	for range 5 {
		g.stream(victim, noise)
		g.ask(victim, many)
		g.ask(victim, bomb)
	}
	grown := c.resident(victim) - before
	for _, conn := range open {
		_ = conn.Close()
	}
	t.Logf("anonymous packets and streams, and bombs: the daemon grew by %d KiB", grown>>10)
	if grown > 50<<20 {
		t.Errorf("memory growth of the daemon: got %d MiB, want at most 50", grown>>20)
	}
	g.ask(victim, short)
	g.ask(victim, message(kindCompressed, map[string]any{"Algo": 0, "Buf": []byte{1, 2}}))
	c.allReady()
}

// gossipOf returns the status of a node in the gossip of a host.
func (c *testCluster) gossipOf(h dev.Host, node string) string {
	out, err := c.runAt(h, "info", "--format", "{{range .Members}}{{.NodeID}}={{.Status}} {{end}}")
	if err != nil {
		return err.Error()
	}
	for f := range strings.FieldsSeq(out) {
		if id, status, _ := strings.Cut(f, "="); id == node {
			return status
		}
	}
	return "unknown"
}

// testForgedLeave sends leave messages in the name of another member.
func testForgedLeave(t *testing.T, c *testCluster) {
	g, victim := c.gossiper(c.hosts[1]), c.hosts[2]
	id := c.nodeFile(victim).NodeID
	c.swarm("service", "create", "--name", "web", "--mode", "global", "--publish", "published=8090,target=8080", "swarm/hello:1")
	c.eventually("tasks of all nodes answer", func() error { return c.answering(len(c.hosts)) })
	statuses := map[string]bool{}
	fewest := len(c.hosts)
	for i := range 30 {
		leave := append([]byte{kindUser}, message(serfLeave, map[string]any{"LTime": uint64(1000 + 10*i), "Node": id})...)
		dead := message(kindDead, map[string]any{"Incarnation": uint32(1000 + 10*i), "Node": id, "From": id})
		for _, h := range c.hosts {
			if h.Name != victim.Name {
				g.say(h, leave, dead)
			}
		}
		<-time.After(50 * time.Millisecond) // the interval of the forged messages
		statuses[c.gossipOf(c.hosts[0], id)] = true
		if i%3 == 0 {
			fewest = min(fewest, c.answerers())
		}
	}
	t.Logf("forged leave messages of %s: gossip called it %v; at least %d of %d nodes got connections", victim.Name, statuses, fewest, len(c.hosts))
	if statuses["left"] || fewest < len(c.hosts) {
		t.Errorf("a forged leave message had an effect: statuses %v, %d nodes got connections", statuses, fewest)
	}
	c.allReady()
}

func (c *testCluster) answering(want int) error {
	if n := c.answerers(); n != want {
		return fmt.Errorf("tasks that answer: got %d, want %d", n, want)
	}
	return nil
}

// answerers returns the number of tasks behind the published port of the first host.
func (c *testCluster) answerers() int {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	names := map[string]bool{}
	for range 8 * len(c.hosts) {
		r, err := client.Get("http://" + c.hosts[0].Address.String() + ":8090/")
		if err != nil {
			continue
		}
		text, _ := io.ReadAll(r.Body)
		_ = r.Body.Close()
		names[string(text)] = true
	}
	return len(names)
}

// testGossipKeys queries the keys, and installs one.
func testGossipKeys(t *testing.T, c *testCluster) {
	g, victim := c.gossiper(c.hosts[1]), c.hosts[0]
	evil := bytes.Repeat([]byte{66}, 32)
	request := message(serfQueryResponse, map[string]any{"Key": evil})
	for _, q := range []string{"install-key", "use-key"} {
		g.say(victim, query(q, request))
		<-time.After(300 * time.Millisecond) // Queries are broadcast and answered meanwhile.
	}
	intruder := c.gossiper(c.hosts[1])
	intruder.keys = [][]byte{evil}
	ring, key := &envelope.Ring{}, c.stolen(c.hosts[1]).Key
	if err := ring.Set(intruder.keys); err != nil {
		t.Fatal(err)
	}
	intruder.sealer = envelope.NewSealer(c.nodeFile(c.hosts[1]).NodeID, ring, func() *ecdsa.PrivateKey { return key })
	answer := intruder.ask(victim, message(kindPushPull, map[string]any{"Nodes": 0, "UserStateLen": 0, "Join": false}))
	t.Logf("a key of the attacker's: a push/pull with it is answered with %d bytes", answer)
	if answer > 0 {
		t.Error("a daemon encrypts gossip with the attacker's key")
	}
	if now := c.nodeFile(victim).GossipKeys; !slices.EqualFunc(now, g.keys, bytes.Equal) {
		t.Error("the gossip key changed after an attacker's query, want it unchanged")
	}
	c.allReady()
}

// testRemovedGossips takes part in gossip with the disk of a node that was removed.
func testRemovedGossips(t *testing.T, c *testCluster) {
	gone := c.hosts[3]
	g := c.gossiper(gone)
	before := c.nodeFile(c.hosts[0]).GossipKeys
	if err := c.playground.Stop(c.ctx, gone.Name); err != nil {
		t.Fatal(err)
	}
	c.swarm("node", "rm", "--force", gone.Name)
	g.at = c.hosts[1]
	alive := message(kindAlive, map[string]any{
		"Incarnation": 1, "Node": "intruder", "Addr": []byte{10, 9, 9, 9}, "Port": 7946, "Vsn": []byte{1, 5, 2, 2, 5, 4}, "Meta": []byte{255, 128},
	})
	g.say(c.hosts[0], alive)
	status := "unknown"
	for range 20 {
		<-time.After(50 * time.Millisecond) // Gossip spreads meanwhile.
		if s := c.gossipOf(c.hosts[0], "intruder"); s != "unknown" {
			status = s
		}
	}
	t.Logf("a removed node brought in a member: gossip calls it %s", status)
	if status != "unknown" {
		t.Error("the removed node still gossips")
	}
	c.eventually("the key rotates", func() error {
		for _, h := range c.hosts[:3] {
			if now := c.nodeFile(h).GossipKeys; bytes.Equal(now[0], before[0]) {
				return fmt.Errorf("%s still encrypts with the key that the removed node has", h.Name)
			}
		}
		return nil
	})
	c.hosts = c.hosts[:3]
	c.allReady()
}

// testEmptyQuery sends a packet that used to crash every manager.
func testEmptyQuery(t *testing.T, c *testCluster) {
	g := c.gossiper(c.hosts[1])
	for _, h := range c.hosts {
		g.say(h, query("install-key", nil))
	}
	<-time.After(2 * time.Second) // The query spreads to all members meanwhile.
	ended := 0
	hosts, err := c.playground.Hosts()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		if h.PID == 0 {
			ended++
		}
	}
	t.Logf("an empty install-key query: %d of %d daemons have ended", ended, len(hosts))
	if ended > 0 {
		t.Errorf("daemons that ended after an empty query: got %d, want 0", ended)
	}
}

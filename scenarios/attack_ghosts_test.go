package scenarios

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"swarm/dev"
	"swarm/internal/pki"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// ghostsTried is the number of nodes that the holder of a join token tries to create, and
	// ghostsAllowed the number of nodes from one address that may wait for their first session.
	ghostsTried, ghostsAllowed = 40, 32
	// promising is the number of connections on which one node begins messages that it does not
	// end.
	promising = 64
	// workerMayGrow bounds the growth of a manager's memory for the messages of one key, and
	// allMayGrow for those of all ghosts, in bytes: 3.3 MiB for each key (transport.WorkerOptions),
	// and as much again for buffers and garbage.
	workerMayGrow, allMayGrow = 20 << 20, 220 << 20
	// ofEach is the number of connections of each node when all ghosts attack.
	ofEach = 8
)

// attackByGhosts creates nodes with a join token that have no host. One of them opens a session and
// is removed. Others begin large messages and never end them.
func (c *testCluster) attackByGhosts() {
	manager, at := c.hosts[0], c.hosts[1]
	before := c.swarm("node", "ls", "-q")
	ghosts := c.makeGhosts(manager, at)
	c.removedInSession(manager, at, ghosts[0])
	// The cheaper attack comes first, because memory that the other one frees would hide its
	// growth.
	c.promises("a removed node", manager, at, ghosts[:1], promising, "/swarm.v1.CA/Renew", mayGrow)
	c.promises("a worker", manager, at, ghosts[1:2], promising, "/swarm.v1.Disks/Release", workerMayGrow)
	c.promises("all ghosts", manager, at, ghosts[1:], ofEach, "/swarm.v1.Disks/Release", allMayGrow)

	if out, err := c.run("service", "create", "--name", "spread", "--replicas", "6", "swarm/hello:1"); err != nil {
		c.t.Errorf("create a service while ghost nodes exist: %v, %s", err, out)
	}
	c.swarm("service", "rm", "spread")
	var ids []string
	for _, g := range ghosts[1:] {
		ids = append(ids, idOf(g))
	}
	c.swarm(append([]string{"node", "rm", "--force"}, ids...)...)
	if after := c.swarm("node", "ls", "-q"); after != before {
		c.t.Errorf("nodes after the removal of the ghosts:\n%s, want those before:\n%s", after, before)
	}
	c.allReady()
}

// makeGhosts joins ghostsTried hosts that do not exist, from one address.
func (c *testCluster) makeGhosts(manager, at dev.Host) (ghosts []pki.Credential) {
	c.t.Helper()
	token := c.token("worker")
	refused := 0
	for i := range ghostsTried {
		cred, err := c.joinGhost(manager, at, token, i)
		switch {
		case err == nil:
			ghosts = append(ghosts, cred)
		case strings.Contains(err.Error(), "never reported"):
			refused++
		default:
			c.t.Fatal("join a ghost node: ", err)
		}
	}
	began := time.Now()
	out, err := c.run("node", "ls", "-q")
	listed, nodes := time.Since(began), len(strings.Fields(out))
	if len(ghosts) != ghostsAllowed || refused != ghostsTried-ghostsAllowed || err != nil || nodes != len(c.hosts)+ghostsAllowed {
		c.t.Fatalf("%d of %d ghosts joined, want %d; node ls lists %d nodes: %v", len(ghosts), ghostsTried, ghostsAllowed, nodes, err)
	}
	c.t.Logf("%d of %d ghosts of one join token were admitted, %d refused; node ls took %v", len(ghosts), ghostsTried, refused, listed.Round(time.Millisecond))
	return ghosts
}

// joinGhost joins a host that does not exist.
func (c *testCluster) joinGhost(manager, at dev.Host, token pki.Token, i int) (cred pki.Credential, err error) {
	key, err := pki.NewKey()
	if err != nil {
		return cred, err
	}
	csr, err := pki.CreateCSR(key)
	if err != nil {
		return cred, err
	}
	answer, err := swarmv1.NewCAClient(c.anonymous(at).grpc(manager)).Join(c.ctx, &swarmv1.JoinRequest{
		Csr: csr, MachineId: fmt.Sprintf("ghost%d", i), Hostname: fmt.Sprintf("ghost%d", i), Addr: fmt.Sprintf("192.0.2.%d", i+1), Port: 2377,
	}, grpc.PerRPCCredentials(tokenProof{token}))
	if err != nil {
		return cred, err
	}
	cert, err := pki.ParseCert(answer.GetCertificate())
	if err != nil {
		return cred, err
	}
	return pki.NewCredential(cert, key)
}

// removedInSession removes a node while its session is open. The node is told, the session ends,
// and the node cannot open another.
func (c *testCluster) removedInSession(manager, at dev.Host, cred pki.Credential) {
	c.t.Helper()
	open := func() (swarmv1.Dispatcher_SessionClient, error) {
		stream, err := swarmv1.NewDispatcherClient((&attacker{c: c, at: at, cred: cred}).grpc(manager)).Session(c.ctx)
		if err == nil {
			_ = stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Hello{Hello: &swarmv1.Hello{MachineId: "ghost0"}}}) // Recv returns the reason of a failure.
		}
		return stream, err
	}
	stream, err := open()
	if err != nil {
		c.t.Fatal(err)
	}
	if first, err := stream.Recv(); err != nil || first.GetWelcome() == nil {
		c.t.Fatalf("the session of a node begins with %v, %v", first, err)
	}
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				ended <- err
				return
			}
		}
	}()
	c.swarm("node", "rm", "--force", idOf(cred))
	began := time.Now()
	select {
	case err := <-ended:
		c.t.Logf("the session of a removed node ended after %v: %v", time.Since(began).Round(time.Millisecond), err)
	case <-time.After(5 * time.Second):
		c.t.Error("the session of a removed node is open 5s after its removal")
	}
	stream, err = open()
	for told := false; err == nil; {
		var m *swarmv1.ToWorker
		if m, err = stream.Recv(); m.GetWelcome() != nil || m.GetAssignments() != nil {
			c.t.Fatalf("a removed node opened a session: %v", m)
		}
		if told = told || m.GetNode().GetRemoved(); err != nil && (!told || !strings.Contains(err.Error(), "removed from the cluster")) {
			c.t.Errorf("a removed node that opens a session learns of its removal: %t; it ended with %v", told, err)
		}
	}
}

// promises has nodes begin messages on all streams of many connections. It sends each message
// except for its end.
func (c *testCluster) promises(whose string, manager, at dev.Host, creds []pki.Credential, each int, path string, may int64) {
	c.t.Helper()
	before := c.resident(manager)
	c.forgetPeak(manager)
	var sent, refused atomic.Int64
	spend := func(n int) error {
		if sent.Add(int64(n)) > floodBytes {
			return errStopped
		}
		return nil
	}
	var all sync.WaitGroup
	var conns []io.Closer
	for i := range len(creds) * each {
		a := &attacker{c: c, at: at, cred: creds[i%len(creds)]}
		conn, err := a.tls(c.ctx, manager, "h2")
		if err != nil {
			refused.Add(1)
			continue
		}
		conns = append(conns, conn)
		all.Go(func() {
			framer, err := beginHTTP2(conn)
			if err == nil {
				err = promise{path: path, streams: 64, size: transport.MaxWorkerMessage, sends: transport.MaxWorkerMessage - 1, spend: spend}.make(framer)
			}
			if err != nil && !errors.Is(err, errStopped) {
				refused.Add(1)
			}
		})
	}
	last := int64(-1) // The loop ends when the manager accepts no more data.
	c.eventually("the manager accepts no more data", func() error {
		now := sent.Load()
		defer func() { last = now }()
		if now != last {
			return fmt.Errorf("%d bytes so far", now)
		}
		return nil
	})
	began := time.Now()
	if _, err := c.run("node", "ls"); err != nil {
		c.t.Errorf("node ls: %v", err)
	}
	grown := c.peak(manager) - before
	c.t.Logf("%s began messages on %d connections, of which %d were refused or ended, and sent %d MiB: the manager grew by %d MiB; node ls took %v",
		whose, len(creds)*each, refused.Load(), sent.Load()>>20, grown>>20, time.Since(began).Round(time.Millisecond))
	if grown > may {
		c.t.Errorf("%s that ends no message costs the manager %d MiB, want %d at most", whose, grown>>20, may>>20)
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	all.Wait()
}

package scenarios

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"swarm/cli/credential"
	"swarm/dev"
	"swarm/internal/eventually"
	"swarm/internal/pki"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// TestAttackIdentity uses certificates that were revoked or that do not match the role that the
// host claims: a worker that speaks Raft, a removed node, and a worker that poses as a manager.
func TestAttackIdentity(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	t.Parallel()
	a := &identityAttack{testCluster: newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 3, Managers: 1})}
	a.manager, a.worker, a.victim = a.hosts[0], a.hosts[1], a.hosts[2]
	t.Run("WorkerPosesAsManager", a.pose)
	t.Run("StreamOutlivesCertificate", a.outlive)
	t.Run("StreamOutlivesRole", a.outliveRole)
	t.Run("OldKeyRenews", a.renewOldKey)
	t.Run("RemovedNode", a.removed)
	t.Run("WorkerSpeaksRaft", a.speakRaft)
}

// identityAttack has a manager, a worker that the attacker controls, and a worker that the test
// removes.
type identityAttack struct {
	*testCluster
	manager, worker, victim dev.Host
}

// idOf returns the id of the node that a credential belongs to.
func idOf(cred pki.Credential) string { return cred.Cert.Subject.CommonName }

// with returns an attacker on the worker's network with a credential.
func (a *identityAttack) with(cred pki.Credential) *attacker {
	return &attacker{c: a.testCluster, at: a.worker, cred: cred}
}

// raft opens Raft connections to the manager with a credential. The second result returns the
// latest connection.
func (a *identityAttack) raft(t *testing.T, cred pki.Credential) (*raftstoretest.Intruder, func() net.Conn) {
	t.Helper()
	var last net.Conn
	i := raftstoretest.NewIntruder(idOf(cred), cred.Cert.Subject.Organization[0], func() (net.Conn, error) {
		conn, err := a.with(cred).tls(a.ctx, a.manager, transport.ProtoRaft)
		if err != nil {
			return nil, err
		}
		last = conn
		return conn, nil
	})
	t.Cleanup(func() { _ = i.Close() })
	return i, func() net.Conn { return last }
}

// node returns the stored node of a host.
func (a *identityAttack) node(t *testing.T, id string) *swarmv1.Node {
	t.Helper()
	conn, err := transport.DialUnix(a.manager.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	info, err := swarmv1.NewControlClient(conn).GetNode(a.ctx, &swarmv1.GetRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	return info.GetNode()
}

// collector is a server that poses as a manager and records the messages that it gets.
type collector struct {
	swarmv1.UnimplementedCAServer
	swarmv1.UnimplementedControlServer
	token, call atomic.Bool
}

func (c *collector) Join(_ context.Context, r *swarmv1.JoinRequest) (*swarmv1.JoinResponse, error) {
	c.token.Store(true)
	return nil, errors.New("recorded")
}

func (c *collector) ListNodes(context.Context, *swarmv1.ListRequest) (*swarmv1.ListNodesResponse, error) {
	c.call.Store(true)
	return nil, errors.New("recorded")
}

// pose has a host join through a worker's listener, and a user call a worker's listener.
func (a *identityAttack) pose(t *testing.T) {
	cred, roots, err := pki.Disk{Dir: filepath.Join(a.worker.StateDir, "certificates")}.Load()
	if err != nil {
		t.Fatal(err)
	}
	identity, err := transport.NewIdentity(cred, roots, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := transport.NewListener(transport.ListenerConfig{}, transport.ListenerDeps{Identity: identity, Log: slog.New(slog.DiscardHandler)}, raw.Addr())
	c := &collector{}
	server := grpc.NewServer(transport.ServerOptions()...)
	swarmv1.RegisterCAServer(server, c)
	swarmv1.RegisterControlServer(server, c)
	ctx, cancel := context.WithCancel(a.ctx)
	ran := make(chan error, 2)
	go func() { ran <- listener.Run(ctx, raw) }()
	go func() { ran <- server.Serve(listener.GRPC()) }()
	defer func() {
		cancel()
		server.Stop()
		<-ran
		<-ran
	}()

	token, err := pki.ParseToken(strings.TrimSpace(a.swarm("join-token", "-q", "worker")))
	if err != nil {
		t.Fatal(err)
	}
	found, err := transport.PinnedBootstrap(a.ctx, raw.Addr().String(), token, time.Now())
	if err == nil {
		joiner, err := transport.NewIdentity(pki.Credential{}, found.Bundle, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		conn := transport.NewDialer(joiner, nil).DialAddr(raw.Addr().String())
		defer conn.Close()
		_, _ = swarmv1.NewCAClient(conn).Join(a.ctx, &swarmv1.JoinRequest{})
	}
	t.Log("a joiner says: ", err)

	cred, roots = a.credential(t, "ops")
	user, err := transport.NewIdentity(cred, roots, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	conn := transport.NewDialer(user, nil).DialAddr(raw.Addr().String())
	defer conn.Close()
	_, err = swarmv1.NewControlClient(conn).ListNodes(a.ctx, &swarmv1.ListRequest{})
	t.Log("a user says: ", err)
	if c.token.Load() || c.call.Load() {
		t.Errorf("a worker poses as a manager: it got a join request: %v, a user's call: %v; want neither", c.token.Load(), c.call.Load())
	}
}

// credential creates a user credential.
func (a *identityAttack) credential(t *testing.T, name string, args ...string) (pki.Credential, *pki.Bundle) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credential.pem")
	a.swarm(append([]string{"credential", "create", name, "-o", file}, args...)...)
	cred, roots, err := credential.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return cred, roots
}

// outlive keeps a stream open beyond the expiry of the certificate that opened it.
func (a *identityAttack) outlive(t *testing.T) {
	cred, _ := a.credential(t, "short", "--expiry", "4s")
	stream, err := swarmv1.NewControlClient(a.with(cred).grpc(a.manager)).Watch(a.ctx, &swarmv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if after := a.endOf(func() error { _, err := stream.Recv(); return err }, cred.Cert.NotAfter, 5*time.Second); after < 0 {
		t.Error("the stream of an expired certificate is still open 5s after the expiry")
	} else {
		t.Log("the stream ended after its certificate: ", after)
	}
}

// endOf reads until an error, and returns the time from the given moment to that error, or -1 if
// there was none within the limit.
func (a *identityAttack) endOf(read func() error, from time.Time, limit time.Duration) time.Duration {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for read() == nil {
		}
	}()
	select {
	case <-ended:
		return time.Since(from).Round(10 * time.Millisecond)
	case <-time.After(time.Until(from) + limit):
		return -1
	}
}

// outliveRole keeps a Raft connection and a manager-only stream open after the node's demotion.
func (a *identityAttack) outliveRole(t *testing.T) {
	a.swarm("node", "promote", "node2")
	eventually.True(t, "node2 votes", func() bool {
		out, _ := a.run("node", "ls")
		return strings.Count(out, "Reachable") == 1 && strings.Count(out, "Leader") == 1
	})
	intruder, last := a.raft(t, a.stolen(a.worker))
	if _, err := intruder.Term(); err != nil {
		t.Log("a thief of a manager's node certificate that speaks Raft: ", err)
	}
	a.swarm("node", "demote", "node2")
	conn := last()
	_ = conn.SetDeadline(time.Time{}) // Raft has set a deadline of its own.
	if after := a.endOf(func() error { _, err := conn.Read(make([]byte, 1)); return err }, time.Now(), 20*time.Second); after < 0 {
		t.Error("the Raft connection of a former manager is open 20s after its demotion")
	} else {
		t.Log("the Raft connection ended after the demotion: ", after)
	}
	eventually.True(t, "node2 is a worker", func() bool {
		out, _ := a.run("node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}")
		return !strings.Contains(out, "Reachable")
	})
	if term, err := intruder.Term(); err == nil {
		t.Errorf("Raft answers a demoted manager with term %d, want a refusal", term)
	} else {
		t.Log("a demoted manager that speaks Raft: ", err)
	}
}

// renew requests a certificate for a new key.
func (a *identityAttack) renew(t *testing.T, cred pki.Credential, machine string) (pki.Credential, error) {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.CreateCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	ca := swarmv1.NewCAClient(a.with(cred).grpc(a.manager))
	answer, err := ca.Renew(a.ctx, &swarmv1.RenewRequest{Csr: csr, MachineId: machine})
	if err != nil {
		return pki.Credential{}, err
	}
	cert, err := pki.ParseCert(answer.GetCertificate())
	if err != nil {
		t.Fatal(err)
	}
	return pki.NewCredential(cert, key)
}

// renewOldKey renews with a key after the managers have issued certificates for two newer ones.
func (a *identityAttack) renewOldKey(t *testing.T) {
	old := a.stolen(a.victim)
	machine := a.node(t, idOf(old)).GetMachineId()
	next := old
	for range 2 {
		var err error
		if next, err = a.renew(t, next, machine); err != nil {
			t.Fatal("renew with the newest key: ", err)
		}
	}
	if _, err := a.renew(t, old, machine); err == nil {
		t.Error("a certificate was renewed with a key that two newer ones have replaced")
	} else {
		t.Log("renewal with an old key: ", err)
	}
}

// removed uses the credential on the disk of a removed node.
func (a *identityAttack) removed(t *testing.T) {
	s := a.stolen(a.victim)
	machine := a.node(t, idOf(s)).GetMachineId()
	a.swarm("node", "rm", "--force", "node3")
	eventually.True(t, "node3 is gone", func() bool {
		out, _ := a.run("node", "ls")
		return !strings.Contains(out, "node3")
	})
	if _, err := a.renew(t, s, machine); err == nil {
		t.Error("a removed node renewed its certificate")
	} else {
		t.Log("renewal by a removed node: ", err)
	}
	intruder, _ := a.raft(t, s)
	if term, err := intruder.Term(); err == nil {
		t.Errorf("Raft answers a removed node with term %d, want a refusal", term)
	} else {
		t.Log("a removed node that speaks Raft: ", err)
	}
	for _, h := range []dev.Host{a.manager, a.worker} {
		// A worker learns of the removal a moment after the managers.
		var status string
		a.eventually("refuse a removed node that fetches blobs from "+h.Name, func() (err error) {
			if status, err = a.fetch(s, h); err == nil {
				return errors.New("a blob request of a removed node: got " + status)
			}
			t.Logf("a removed node that fetches a blob from %s: %v", h.Name, err)
			return nil
		})
	}
}

// fetch requests a blob from a host that does not have it.
func (a *identityAttack) fetch(cred pki.Credential, from dev.Host) (status string, err error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := a.with(cred).tls(ctx, from, transport.ProtoBlob)
			if err != nil {
				return nil, err
			}
			return struct{ net.Conn }{conn}, nil
		},
	}}
	answer, err := client.Get("http://node/v2/x/blobs/sha256:" + strings.Repeat("0", 64))
	if err != nil {
		return "", err
	}
	return answer.Status, answer.Body.Close()
}

// speakRaft has a worker try to make itself a manager over Raft.
func (a *identityAttack) speakRaft(t *testing.T) {
	s := a.stolen(a.worker)
	row := a.node(t, idOf(s))
	intruder, _ := a.raft(t, s)
	row.Spec.Role = swarmv1.NodeSpec_MANAGER
	err := intruder.Append(1, table.Put(row))
	t.Log("a worker that sends an entry: ", err)
	out, _ := a.run("node", "inspect", "node2")
	if err == nil || strings.Contains(out, "\"manager\"") {
		t.Errorf("a worker has made itself a manager: %s", out)
	}
}

package scenarios

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"swarm/dev"
	"swarm/internal/pki"
	"swarm/internal/seal"
	"swarm/manager/ca"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/raftstoretest"
)

// TestAttackAccess attacks the ways into a cluster: user credentials, join tokens, and the data
// that a joining host reports.
func TestAttackAccess(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	t.Parallel()
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 3, Managers: 2})
	t.Run("credential of a minute", func(t *testing.T) { c.in(t).attackLifetime() })
	t.Run("revoked credential", func(t *testing.T) { c.in(t).attackRevoked() })
	t.Run("flood of wrong tokens", func(t *testing.T) { c.in(t).attackFlood() })
	t.Run("hostile host", func(t *testing.T) { c.in(t).attackHost() })
	t.Run("fake manager", func(t *testing.T) { c.in(t).attackJoiner() })
}

// remote runs the client on a host with a credential.
func (c *testCluster) remote(at dev.Host, credential string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, c.binary, append([]string{"-H", "tcp://" + at.Address.String(), "--credential", credential}, args...)...).CombinedOutput()
	return string(out), err
}

// attackLifetime uses a credential that is valid for a minute to create one for twenty years.
func (c *testCluster) attackLifetime() {
	short, long := filepath.Join(c.t.TempDir(), "short.pem"), filepath.Join(c.t.TempDir(), "long.pem")
	c.swarm("credential", "create", "--expiry", "1m", "-o", short, "short")
	out, err := c.remote(c.hosts[0], short, "credential", "create", "--expiry", "175200h", "-o", long, "long")
	if err == nil || !strings.Contains(out, "must not outlast the credential that creates it") {
		c.t.Errorf("a credential of a minute created one of twenty years: %v, %s", err, out)
	}
	if _, err := c.remote(c.hosts[0], short, "credential", "create", "-o", long, "long"); err != nil {
		c.t.Fatal(err)
	}
	row := strings.Fields(c.swarm("credential", "ls", "--filter", "name=long", "--format", "{{.Name}} {{.Until}}"))
	until, err := time.Parse(time.RFC3339, row[len(row)-1])
	if left := time.Until(until); err != nil || left > time.Minute {
		c.t.Errorf("a credential that one of a minute created: got a lifetime of %v, %v, want at most a minute", left, err)
	}
	c.t.Logf("twenty years: %s; without a wish: %v", strings.TrimSpace(out), time.Until(until).Round(time.Second))
	c.swarm("credential", "rm", "short", "long")
}

// attackRevoked uses a credential after another manager revoked it: for new calls, through an open
// stream, and to create another credential.
func (c *testCluster) attackRevoked() {
	file := filepath.Join(c.t.TempDir(), "jane.pem")
	c.swarm("credential", "create", "-o", file, "jane")
	var said bytes.Buffer
	stream := exec.CommandContext(c.ctx, c.binary, "-H", "tcp://"+c.hosts[1].Address.String(), "--credential", file, "events", "--format", "json")
	stream.Stdout, stream.Stderr = &said, &said
	if err := stream.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("the stream is open", func() error {
		c.swarm("credential", "create", "-o", filepath.Join(c.t.TempDir(), "noise.pem"), "noise")
		if info, err := c.remote(c.hosts[1], file, "node", "ls", "-q"); err != nil {
			return fmt.Errorf("%w: %s", err, info)
		}
		return nil
	})
	ended := make(chan error, 1)
	go func() { ended <- stream.Wait() }()
	c.swarm("credential", "rm", "jane", "noise")
	began := time.Now()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		_ = stream.Process.Kill()
		<-ended
		c.t.Error("the stream of a revoked credential is still open")
	}
	closed := time.Since(began)
	for _, at := range c.hosts[:2] {
		for _, args := range [][]string{{"node", "ls"}, {"credential", "create", "-o", filepath.Join(c.t.TempDir(), "x.pem"), "x"}} {
			c.eventually("the revoked credential is refused", func() error {
				if out, err := c.remote(at, file, args...); err == nil || !strings.Contains(out, "revoked") {
					return fmt.Errorf("%s with a revoked credential at %s: %v, %s", args[0], at.Name, err, out)
				}
				return nil
			})
		}
	}
	c.t.Logf("the stream was closed after %v, and said %.200q", closed.Round(time.Millisecond), said.String())
}

// tokenProof proves possession of a join token as a joiner does, over any TLS connection.
type tokenProof struct{ token pki.Token }

func (k tokenProof) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	call, _ := credentials.RequestInfoFromContext(ctx)
	info, ok := call.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, errors.New("no TLS")
	}
	binding, err := info.State.ExportKeyingMaterial("EXPORTER-swarm-binding", nil, 32)
	return map[string]string{"swarm-join-proof-bin": string(k.token.Proof(pki.SideJoiner, binding))}, err
}

func (tokenProof) RequireTransportSecurity() bool { return true }

// token returns the cluster's join token for a role.
func (c *testCluster) token(role string) pki.Token {
	c.t.Helper()
	token, err := pki.ParseToken(strings.TrimSpace(c.swarm("join-token", "-q", role)))
	if err != nil {
		c.t.Fatal(err)
	}
	return token
}

// received returns the number of packets that a host got from other hosts.
func (c *testCluster) received(h dev.Host) (packets int) {
	c.t.Helper()
	out, err := exec.CommandContext(c.ctx, "nsenter", "--net="+h.Namespace, "cat", "/proc/net/dev").Output()
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		name, rest, ok := strings.Cut(line, ":")
		if f := strings.Fields(rest); ok && strings.TrimSpace(name) != "lo" {
			n, _ := strconv.Atoi(f[1])
			packets += n
		}
	}
	return packets
}

// attackFlood joins with wrong tokens through a manager that is not the leader. The attack must not
// load the leader or fill the log.
func (c *testCluster) attackFlood() {
	const callers, each = 20, 100
	leader, follower := c.hosts[0], c.hosts[1]
	if c.leaderName() != leader.Name {
		leader, follower = follower, leader
	}
	wrong := c.token("worker")
	wrong.Secret = strings.Repeat("0", len(wrong.Secret))
	client := swarmv1.NewCAClient(c.anonymous(c.hosts[2]).grpc(follower))
	logged := c.logLines(follower)
	before, began := c.received(leader), time.Now()
	var mu sync.Mutex
	answers := map[codes.Code]int{}
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				_, err := client.Join(c.ctx, &swarmv1.JoinRequest{}, grpc.PerRPCCredentials(tokenProof{wrong}))
				mu.Lock()
				answers[status.Code(err)]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	flood := c.received(leader) - before
	before = c.received(leader)
	<-time.After(took) // the same time without attacks, for comparison
	quiet, lines := c.received(leader)-before, c.logLines(follower)-logged
	if flood > quiet+callers*each/10 {
		c.t.Errorf("%d wrong tokens cost the leader %d packets in addition to the %d of a quiet time", callers*each, flood-quiet, quiet)
	}
	if lines > 50 {
		c.t.Errorf("log lines of %d wrong tokens: got %d, want at most 50", callers*each, lines)
	}
	if answers[codes.OK] > 0 {
		c.t.Errorf("%d wrong tokens were accepted, want none", answers[codes.OK])
	}
	// A join with the right token is admitted meanwhile, from the same address.
	client2 := swarmv1.NewAdmissionClient(c.anonymous(c.hosts[2]).grpc(follower))
	probe, err := client2.Probe(c.ctx, grpc.PerRPCCredentials(tokenProof{c.token("worker")}))
	if err == nil {
		_ = probe.Send(&swarmv1.AdmissionRequest{})
		_, err = probe.Recv()
	}
	if status.Code(err) != codes.InvalidArgument { // The request is empty, so InvalidArgument means that the token was accepted.
		c.t.Errorf("a right token after the flood: got %v, want the request to be validated", err)
	}
	c.t.Logf("%d wrong tokens in %v: %v; the leader got %d packets (%d in a quiet time), the log %d lines", callers*each, took.Round(time.Millisecond), answers, flood, quiet, lines)
}

// leaderName returns the name of the host that leads.
func (c *testCluster) leaderName() string {
	c.t.Helper()
	for line := range strings.Lines(c.swarm("node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}")) {
		if name, state, _ := strings.Cut(strings.TrimSpace(line), " "); state == "Leader" {
			return name
		}
	}
	c.t.Fatal("node ls shows no leader")
	return ""
}

// attackHost joins with a valid token as hosts that forge table rows, send terminal escape
// sequences, fill the memory, or report the addresses of others.
func (c *testCluster) attackHost() {
	client := swarmv1.NewCAClient(c.anonymous(c.hosts[2]).grpc(c.hosts[0]))
	key, err := pki.NewKey()
	if err != nil {
		c.t.Fatal(err)
	}
	csr, err := pki.CreateCSR(key)
	if err != nil {
		c.t.Fatal(err)
	}
	token, before := c.token("worker"), c.swarm("node", "ls", "-q")
	refused := 0
	for name, edit := range map[string]func(*swarmv1.JoinRequest){
		"a hostname of two lines":    func(r *swarmv1.JoinRequest) { r.Hostname = "good\nforged-node" },
		"a hostname that clears":     func(r *swarmv1.JoinRequest) { r.Hostname = "\x1b[2Jgone" },
		"a hostname of a megabyte":   func(r *swarmv1.JoinRequest) { r.Hostname = strings.Repeat("x", 1<<20) },
		"a machine id of two lines":  func(r *swarmv1.JoinRequest) { r.MachineId = "m\nm" },
		"a build that clears":        func(r *swarmv1.JoinRequest) { r.Build = "\x1b[2J" },
		"a loopback address":         func(r *swarmv1.JoinRequest) { r.Addr = "127.0.0.1" },
		"a link-local address":       func(r *swarmv1.JoinRequest) { r.Addr = "169.254.169.254" },
		"a multicast address":        func(r *swarmv1.JoinRequest) { r.DataPathAddr = "ff02::1" },
		"a manager's address at it":  func(r *swarmv1.JoinRequest) { r.Addr = "::ffff:" + c.hosts[0].Address.String() },
		"an availability of its own": func(r *swarmv1.JoinRequest) { r.Availability = 99 },
	} {
		r := &swarmv1.JoinRequest{Csr: csr, MachineId: "evil", Hostname: "evil", Addr: "192.0.2.99", Port: 2377}
		edit(r)
		answer, err := client.Join(c.ctx, r, grpc.PerRPCCredentials(tokenProof{token}))
		if err == nil {
			c.t.Errorf("%s: it joined as node %s", name, answer.GetNodeId())
			continue
		}
		if text := err.Error(); strings.ContainsAny(text, "\n\x1b") || len(text) > 1000 {
			c.t.Errorf("%s: the refusal repeats the hostile data: %.200q", name, text)
		}
		refused++
	}
	if after := c.swarm("node", "ls", "-q"); after != before {
		c.t.Errorf("nodes after the refusals:\n%s, want those before:\n%s", after, before)
	}
	c.t.Logf("%d hostile hosts were refused", refused)
}

// fakeManager is a server that poses as a manager to a joiner. It records all that it receives.
type fakeManager struct {
	swarmv1.UnimplementedCAServer
	swarmv1.UnimplementedAdmissionServer

	mu    sync.Mutex // guards the fields below
	got   bytes.Buffer
	calls int
}

func (f *fakeManager) note(ctx context.Context, what string) {
	header, _ := metadata.FromIncomingContext(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	fmt.Fprintln(&f.got, what, header)
}

func (f *fakeManager) Join(ctx context.Context, r *swarmv1.JoinRequest) (*swarmv1.JoinResponse, error) {
	f.note(ctx, r.String())
	header, _ := metadata.FromIncomingContext(ctx)
	// Without the token, the best answer is to return the joiner's own proof.
	_ = grpc.SetHeader(ctx, metadata.MD{"swarm-join-proof-bin": header.Get("swarm-join-proof-bin")})
	return &swarmv1.JoinResponse{NodeId: "mine", ClusterId: "mine"}, nil
}

func (f *fakeManager) Probe(stream swarmv1.Admission_ProbeServer) error {
	r, err := stream.Recv()
	f.note(stream.Context(), fmt.Sprint(r, err))
	header, _ := metadata.FromIncomingContext(stream.Context())
	_ = stream.SetHeader(metadata.MD{"swarm-join-proof-bin": header.Get("swarm-join-proof-bin")})
	return stream.Send(&swarmv1.AdmissionProbe{Addr: "192.0.2.1", Nonce: make([]byte, 16)})
}

// tapped is a connection whose data the fake manager also reads.
type tapped struct {
	net.Conn
	fake *fakeManager
}

func (t tapped) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	t.fake.mu.Lock()
	defer t.fake.mu.Unlock()
	t.fake.got.Write(b[:n])
	return n, err
}

type tappedListener struct {
	net.Listener
	fake *fakeManager
}

func (l tappedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return tapped{conn, l.fake}, err
}

// pretend serves a fake manager with a stolen certificate at a host's address, and returns that
// address.
func (c *testCluster) pretend(at dev.Host, cred pki.Credential, bundle *pki.Bundle) (*fakeManager, string) {
	c.t.Helper()
	var raw net.Listener
	if err := c.playground.Do(at.Name, func() (err error) {
		raw, err = net.Listen("tcp", net.JoinHostPort(at.Address.String(), "0"))
		return err
	}); err != nil {
		c.t.Fatal(err)
	}
	const roots = "swarm-roots/1"
	f := &fakeManager{}
	secure := tls.NewListener(raw, &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		chain := cred.TLS()
		if slices.Contains(hello.SupportedProtos, roots) {
			chain = cred.TLS(bundle.Roots()...)
		}
		return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", roots}, Certificates: []tls.Certificate{chain}, ClientAuth: tls.RequestClientCert}, nil
	}})
	server := grpc.NewServer()
	swarmv1.RegisterCAServer(server, f)
	swarmv1.RegisterAdmissionServer(server, f)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(tappedListener{secure, f})
	}()
	c.t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return f, raw.Addr().String()
}

// forged returns a manager's certificate for a manager's node, signed with the authority's key from
// a copy of the manager's state folder.
func (c *testCluster) forged(from dev.Host) pki.Credential {
	c.t.Helper()
	state, backup := filepath.Join(from.StateDir, "manager"), c.t.TempDir()
	if err := os.CopyFS(filepath.Join(backup, "snapshots"), os.DirFS(filepath.Join(state, "snapshots"))); err != nil {
		c.t.Fatal(err)
	}
	keys, err := os.ReadFile(filepath.Join(state, "keys"))
	if err != nil {
		c.t.Fatal(err)
	}
	ring, err := seal.ParseRing(keys, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	node := c.stolen(from)
	config := raftstore.Config{NodeID: idOf(node), Dir: backup, Sealer: ring}
	if err := raftstore.Recover(config, raftstore.Deps{}); err != nil {
		c.t.Fatal(err)
	}
	store, err := raftstore.Open(config, raftstore.Deps{})
	if err != nil {
		c.t.Fatal(err)
	}
	raftstoretest.Run(c.t, store)
	cred, err := ca.SignManager(store.View(), idOf(node), node, time.Now())
	if err != nil {
		c.t.Fatal(err)
	}
	return cred
}

// attackJoiner gives a joiner the address of a server that has a stolen certificate but not the
// join token. The certificates are that of a worker, that of a manager's node, and one with the
// manager role. The joiner must not disclose the token and must not trust the server.
func (c *testCluster) attackJoiner() {
	joiner := c.hosts[2]
	_, bundle, err := pki.Disk{Dir: filepath.Join(joiner.StateDir, "certificates")}.Load()
	if err != nil {
		c.t.Fatal(err)
	}
	pretenders := []struct {
		name   string
		cred   pki.Credential
		called bool // The joiner accepts the certificate, so only the proof of the token protects it.
	}{
		{"a worker", c.stolen(joiner), false},
		{"a manager's node", c.stolen(c.hosts[1]), false},
		{"a manager", c.forged(c.hosts[1]), true},
	}
	if _, err := c.runAt(joiner, "leave", "--force"); err != nil {
		c.t.Fatal(err)
	}
	c.swarm("join-token", "--rotate", "manager") // The stolen state folder has the token before this rotation.
	token := c.token("manager")
	file := filepath.Join(c.t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token.String()), 0o600); err != nil {
		c.t.Fatal(err)
	}
	for _, p := range pretenders {
		for _, skip := range []bool{false, true} {
			f, addr := c.pretend(c.hosts[1], p.cred, bundle)
			out, err := c.runAt(joiner, "join", "--skip-network-check="+strconv.FormatBool(skip), "--token-file", file, addr)
			f.mu.Lock()
			seen, calls, size := bytes.Contains(f.got.Bytes(), []byte(token.Secret)), f.calls, f.got.Len()
			f.mu.Unlock()
			switch {
			case err == nil:
				c.t.Errorf("a host joined a fake manager with the certificate of %s", p.name)
			case seen:
				c.t.Errorf("a fake manager with the certificate of %s was sent the token", p.name)
			case (calls > 0) != p.called:
				c.t.Errorf("a fake manager with the certificate of %s was called %d times, want some: %t", p.name, calls, p.called)
			case p.called && !strings.Contains(out, "does not know the join token"):
				c.t.Errorf("the joiner does not say that a fake manager with the certificate of %s knows no token: %s", p.name, out)
			}
			c.t.Logf("certificate of %s: %d calls, %d bytes, secret among them: %t; the joiner says: %s", p.name, calls, size, seen, strings.TrimSpace(out))
		}
	}
	if out, err := c.runAt(joiner, "info", "--format", "{{.LocalNodeState}}"); err != nil || strings.Contains(out, "active\n") && !strings.Contains(out, "inactive") {
		c.t.Errorf("state of the joiner: got %s, %v, want inactive", out, err)
	}
	// The real managers admit the joiner, with the token of a worker and through the same flag.
	if err := os.WriteFile(file, []byte(c.token("worker").String()), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("the joiner's former node is gone", func() error {
		_, err := c.run("node", "rm", joiner.Name)
		return err
	})
	if out, err := c.runAt(joiner, "join", "--token-file", file, clusterPort(c.hosts[0])); err != nil {
		c.t.Fatal(err, out)
	}
	c.allReady()
}

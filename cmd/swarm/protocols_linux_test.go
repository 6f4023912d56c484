package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/eventually"
	"swarm/internal/ident"
	"swarm/internal/members"
	"swarm/internal/pki"
	"swarm/internal/transport"
	"swarm/manager"
	"swarm/manager/ca"
	"swarm/node"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/raftstoretest"
)

var updateProtocols = flag.Bool("update", false, "rewrite docs/protocols.md")

const protocolsDoc = "../../docs/protocols.md"

// The two kinds of nodes of the table: real daemons of package node with real listeners, over rows
// of a real store, with stubs for what they serve.
type protocolRig struct {
	t       *testing.T
	store   *raftstore.Store
	manager *manager.Manager
	root    *pki.Root
	bundle  *pki.Bundle
	addrs   map[string]string // of the two daemons, by role
	callers []protocolCaller
	told    map[string]*members.Members // by role, what the daemon was told of the cluster
	hooks   map[string]node.WorkerHooks // by role
}

// protocolCaller is a column of the table.
type protocolCaller struct {
	name string
	// cred is presented, and for Raft asManager, if the caller can have such a thing.
	cred, asManager pki.Credential
}

// of is what the caller presents.
func (c protocolCaller) of(alpn string) pki.Credential {
	if alpn == transport.ProtoRaft && c.asManager.Cert != nil {
		return c.asManager
	}
	return c.cred
}

func newProtocolRig(t *testing.T) *protocolRig {
	t.Helper()
	r := &protocolRig{t: t, store: raftstoretest.New(t), addrs: map[string]string{}, told: map[string]*members.Members{}, hooks: map[string]node.WorkerHooks{}}
	self := ident.NewID()
	key, csr := r.key()
	founding, err := ca.NewCluster(ca.Founder{NodeID: self, CSR: csr, Addr: "127.0.0.1", Port: 1, MachineID: "m", Hostname: "m", Format: raftstore.Format}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r.commit(founding.Changes...)
	rootCA := founding.Cluster.GetRootCa()
	if r.bundle, err = pki.ParseBundle(rootCA.GetBundle()); err != nil {
		t.Fatal(err)
	}
	cert, _ := r.bundle.Find(rootCA.GetDigest())
	if r.root, err = pki.ParseRoot(pki.EncodeCert(cert), rootCA.GetSigningKey()); err != nil {
		t.Fatal(err)
	}
	own, err := pki.ParseCert(founding.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	r.makeCallers()
	r.run("manager", self, pki.Credential{Cert: own, Key: key})
	worker := r.node(swarmv1.NodeSpec_WORKER, time.Hour)
	r.run("worker", idOfCert(worker.cred), worker.cred)
	return r
}

func idOfCert(c pki.Credential) string { return c.Cert.Subject.CommonName }

func (r *protocolRig) key() (*ecdsa.PrivateKey, []byte) {
	r.t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		r.t.Fatal(err)
	}
	csr, err := pki.CreateCSR(key)
	if err != nil {
		r.t.Fatal(err)
	}
	return key, csr
}

func (r *protocolRig) commit(changes ...*swarmv1.Change) {
	r.t.Helper()
	index, err := r.store.Commit(r.t.Context(), "test", changes...)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.store.WaitIndex(r.t.Context(), index); err != nil {
		r.t.Fatal(err)
	}
}

// node is a node with a row of the role, and both kinds of certificate.
func (r *protocolRig) node(role swarmv1.NodeSpec_Role, validity time.Duration) protocolCaller {
	r.t.Helper()
	id := ident.NewID()
	key, csr := r.key()
	began := time.Now().Add(-2 * time.Hour)
	cert, err := r.root.SignNode(csr, id, 2*time.Hour+validity, began)
	if err != nil {
		r.t.Fatal(err)
	}
	r.commit(
		raftstore.Create(&swarmv1.Node{Id: id, Addr: "127.0.0.1", Port: 1, MachineId: id, Hostname: id[:8], PublicKey: cert.RawSubjectPublicKeyInfo, Spec: &swarmv1.NodeSpec{Role: role}}),
		raftstore.Create(&swarmv1.NodeState{NodeId: id, State: swarmv1.NodeState_READY}))
	asManager, err := r.root.SignManager(csr, pki.Manager{NodeID: id, Issued: r.store.View().Index()}, validity, time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	return protocolCaller{cred: pki.Credential{Cert: cert, Key: key}, asManager: pki.Credential{Cert: asManager, Key: key}}
}

// makeCallers makes the columns of the table.
func (r *protocolRig) makeCallers() {
	r.t.Helper()
	add := func(name string, c protocolCaller) *protocolCaller {
		c.name = name
		r.callers = append(r.callers, c)
		return &r.callers[len(r.callers)-1]
	}
	add("manager", r.node(swarmv1.NodeSpec_MANAGER, time.Hour))
	worker := add("worker", r.node(swarmv1.NodeSpec_WORKER, time.Hour))
	worker.asManager = pki.Credential{} // it never was one
	add("demoted", r.node(swarmv1.NodeSpec_WORKER, time.Hour))
	removed := add("removed", r.node(swarmv1.NodeSpec_MANAGER, time.Hour))
	gone, _ := r.store.View().Nodes.Get(idOfCert(removed.cred))
	r.commit(raftstore.Delete(gone))
	replaced := add("replaced key", r.node(swarmv1.NodeSpec_WORKER, time.Hour))
	replaced.asManager = pki.Credential{}
	row, _ := r.store.View().Nodes.Get(idOfCert(replaced.cred))
	row = row.CloneVT()
	row.PublicKey = []byte("newer")
	r.commit(raftstore.Update(row))
	expired := add("expired", r.node(swarmv1.NodeSpec_WORKER, -time.Minute))
	expired.asManager = pki.Credential{}
	for _, name := range []string{"user", "revoked user"} {
		key, csr := r.key()
		cert, err := r.root.SignUser(csr, "jane", time.Hour, time.Now())
		if err != nil {
			r.t.Fatal(err)
		}
		add(name, protocolCaller{cred: pki.Credential{Cert: cert, Key: key}})
		if name == "user" {
			r.commit(raftstore.Create(&swarmv1.Credential{Id: pki.Serial(cert), Name: "jane", Until: timestamppb.New(cert.NotAfter)}))
		}
	}
	add("anonymous", protocolCaller{})
}

// run runs a daemon that is a member already.
func (r *protocolRig) run(role, id string, cred pki.Credential) {
	r.t.Helper()
	dir, err := os.MkdirTemp("", "protocols") // t.TempDir is too long for a socket
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	_ = ln.Close()
	r.addrs[role] = ln.Addr().String()
	state := filepath.Join(dir, "state")
	if err := (pki.Disk{Dir: filepath.Join(state, "certificates")}).Save(cred, r.bundle); err != nil {
		r.t.Fatal(err)
	}
	membership := node.Membership{NodeID: id, ClusterID: r.bundle.ClusterID(), Manager: role == "manager", Addr: "127.0.0.1", ListenAddr: "127.0.0.1", Port: uint16(port)}
	for _, c := range r.callers {
		if c.name == "manager" || c.name == "demoted" || c.name == "removed" { // what a worker was told last may be old
			membership.Managers = append(membership.Managers, node.Peer{NodeID: idOfCert(c.cred), Addr: "127.0.0.1", Port: 1})
		}
	}
	if role == "worker" { // and of the demotion it has been told
		membership.Managers = slices.DeleteFunc(membership.Managers, func(p node.Peer) bool { return p.NodeID == idOfCert(r.caller("demoted").cred) })
	}
	text, err := json.Marshal(membership)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(state, "node.json"), text, 0o600); err != nil {
		r.t.Fatal(err)
	}
	n := node.New(node.Config{StateDir: state, RunDir: filepath.Join(dir, "run"), Hostname: "host"}, node.Deps{
		Log: slog.New(slog.DiscardHandler), Clean: func(context.Context) error { return nil },
		Describe:   func() *swarmv1.NodeDescription { return nil },
		NewGossip:  func(node.Base) (node.Gossip, error) { return noGossip{}, nil },
		NewWorker:  r.newWorker,
		NewManager: r.newManager,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("the %s ended: %v", role, err)
		}
	})
}

func (r *protocolRig) caller(name string) protocolCaller {
	return r.callers[slices.IndexFunc(r.callers, func(c protocolCaller) bool { return c.name == name })]
}

// greet writes one byte to every connection of a part: whoever reads it has been admitted.
func greet(ctx context.Context, ln net.Listener) {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = c.Write([]byte("x"))
	}
}

// holdOn in the metadata of a call makes it last until its end.
const holdOn = "hold-on"

// stub registers services whose every method says that it is not implemented: that a caller is told
// so shows that the call was let through.
func stub(reg grpc.ServiceRegistrar, services ...string) {
	for _, name := range services {
		desc := &grpc.ServiceDesc{ServiceName: "swarm.v1." + name}
		for _, m := range methodsOf(name) {
			desc.Streams = append(desc.Streams, grpc.StreamDesc{
				StreamName: m, Handler: func(_ any, stream grpc.ServerStream) error {
					if md, _ := metadata.FromIncomingContext(stream.Context()); len(md.Get(holdOn)) > 0 {
						_ = stream.SendHeader(nil)
						<-stream.Context().Done()
					}
					return status.Error(codes.Unimplemented, "let through")
				},
			})
		}
		reg.RegisterService(desc, struct{}{})
	}
}

func methodsOf(service string) (out []string) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName("swarm.v1." + service))
	if err != nil {
		panic(err)
	}
	list := d.(protoreflect.ServiceDescriptor).Methods()
	for i := range list.Len() {
		out = append(out, string(list.Get(i).Name()))
	}
	return out
}

type noGossip struct{}

func (noGossip) Run(ctx context.Context) error    { <-ctx.Done(); return nil }
func (noGossip) Members() []*swarmv1.Member       { return nil }
func (noGossip) Resolve(string) (node.Peer, bool) { return node.Peer{}, false }
func (noGossip) UpdateKeys([][]byte) error        { return nil }
func (noGossip) Leave(context.Context) error      { return nil }
func (noGossip) Close() error                     { return nil }

type stubWorker struct{ blobs net.Listener }

func (r *protocolRig) newWorker(b node.Base, _ node.Gossip, hooks node.WorkerHooks) (node.Worker, error) {
	role := "worker"
	if b.Membership.Manager {
		role = "manager"
	}
	r.told[role], r.hooks[role] = b.Members, hooks
	var told []*swarmv1.AssignmentChange
	for n := range r.store.View().Nodes.All() {
		told = append(told, &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Put{Put: &swarmv1.Assignment{
			Object: &swarmv1.Assignment_Peering{Peering: &swarmv1.Peering{NodeId: n.GetId(), PublicKeys: members.KeysOf(n)}},
		}}})
	}
	b.Members.Apply(told)
	return stubWorker{b.Listener.Blob()}, nil
}

func (w stubWorker) Run(ctx context.Context) error { greet(ctx, w.blobs); return nil }
func (w stubWorker) Register(reg grpc.ServiceRegistrar) {
	stub(reg, "Worker", "Disk", "Doctor", "Admission")
}
func (w stubWorker) Connected(context.Context) error { return nil }
func (w stubWorker) Tasks() int                      { return 0 }
func (w stubWorker) Depart(context.Context) error    { return nil }
func (w stubWorker) Close() error                    { return w.blobs.Close() }

// stubManager is a manager with its judgement and without its services.
type stubManager struct {
	*manager.Manager
	raft net.Listener
}

func (r *protocolRig) newManager(b node.Base, _ node.Gossip, _ []*swarmv1.Change) (node.Manager, error) {
	r.manager = manager.New(manager.Config{NodeID: b.Membership.NodeID}, manager.Deps{
		Log: b.Log, Store: r.store, Identity: b.Identity, Review: b.Review,
		Conn: func(string) (grpc.ClientConnInterface, error) { return nil, errors.New("no way there") },
	})
	return stubManager{r.manager, b.Listener.Raft()}, nil
}

func (m stubManager) Run(ctx context.Context) error {
	go greet(ctx, m.raft)
	return m.Manager.Run(ctx)
}

func (m stubManager) Register(reg grpc.ServiceRegistrar) {
	stub(reg, "Control", "Disks", "CA", "Raft", "Dispatcher", "Liveness")
}
func (m stubManager) Resolve(string) (node.Peer, bool) { return node.Peer{}, false }
func (m stubManager) Standing() node.Standing          { return node.Standing{Voter: true} }

// tls speaks TLS as anybody could, and trusts whoever answers.
func (r *protocolRig) tls(role, alpn string, cred pki.Credential) (*tls.Conn, error) {
	raw, err := net.Dial("tcp", r.addrs[role])
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	conn := tls.Client(raw, r.config(alpn, cred))
	return conn, conn.Handshake()
}

func (r *protocolRig) config(alpn string, cred pki.Credential) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, InsecureSkipVerify: true}
	if cred.Cert != nil {
		config.Certificates = []tls.Certificate{cred.TLS()}
	}
	return config
}

// admitted says whether a caller may have a connection.
func (r *protocolRig) admitted(role, alpn string, c protocolCaller) bool {
	r.t.Helper()
	conn, err := r.tls(role, alpn, c.of(alpn))
	if err != nil {
		return false
	}
	defer conn.Close()
	if alpn == protoRoots {
		return len(conn.ConnectionState().PeerCertificates) > 1
	}
	_, err = conn.Read(make([]byte, 1)) // the byte of greet, or the first of HTTP/2
	if err != nil && !errors.Is(err, io.EOF) && !isClosed(err) {
		r.t.Errorf("%s at a %s's %s: %v", c.name, role, alpn, err)
	}
	return err == nil
}

// protoRoots is the protocol of transport.PinnedBootstrap.
const protoRoots = "swarm-roots/1"

func isClosed(err error) bool {
	return strings.Contains(err.Error(), "reset") || strings.Contains(err.Error(), "remote error: tls")
}

// letThrough says whether a caller's call reaches its handler.
func (r *protocolRig) letThrough(conn *grpc.ClientConn, what, method string) bool {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err == nil {
		err = stream.RecvMsg(&emptypb.Empty{})
	}
	switch code := status.Code(err); code {
	case codes.Unimplemented:
		return true
	case codes.PermissionDenied, codes.Unauthenticated, codes.Unavailable:
		return false
	default:
		r.t.Errorf("%s calls %s: %v", what, method, err)
		return false
	}
}

// walk fills the table of one kind of node: a line for each protocol and RPC, a cell for each
// caller. What is refused to all of them has no line.
func (r *protocolRig) walk(role string) string {
	r.t.Helper()
	var out strings.Builder
	fmt.Fprint(&out, "| |")
	for _, c := range r.callers {
		fmt.Fprintf(&out, " %s |", c.name)
	}
	fmt.Fprintf(&out, "\n|---|%s\n", strings.Repeat("---|", len(r.callers)))
	row := func(name string, cell func(protocolCaller) bool) {
		line, any := fmt.Sprintf("| `%s` |", name), false
		for _, c := range r.callers {
			yes := " "
			if cell(c) {
				yes, any = " yes ", true
			}
			line += yes + "|"
		}
		if any {
			fmt.Fprintln(&out, line)
		}
	}
	for _, alpn := range []string{protoRoots, transport.ProtoGRPC, transport.ProtoRaft, transport.ProtoBlob} {
		row(alpn, func(c protocolCaller) bool { return r.admitted(role, alpn, c) })
	}
	conns := map[string]*grpc.ClientConn{}
	for _, c := range r.callers {
		conn, err := grpc.NewClient("passthrough:///"+r.addrs[role], grpc.WithNoProxy(), grpc.WithTransportCredentials(credentials.NewTLS(r.config(transport.ProtoGRPC, c.cred))))
		if err != nil {
			r.t.Fatal(err)
		}
		defer conn.Close()
		conns[c.name] = conn
	}
	for _, method := range allMethods() {
		row(strings.TrimPrefix(method, "/swarm.v1."), func(c protocolCaller) bool { return r.letThrough(conns[c.name], c.name, method) })
	}
	return out.String()
}

// allMethods are those of all services but the one that is spoken inside of one host.
func allMethods() (out []string) {
	protoregistry.GlobalFiles.RangeFilesByPackage("swarm.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			if name := string(f.Services().Get(i).Name()); name != "Resolver" {
				for _, m := range methodsOf(name) {
					out = append(out, "/swarm.v1."+name+"/"+m)
				}
			}
		}
		return true
	})
	slices.Sort(out)
	return out
}

// Every protocol and RPC, asked by everybody, of a manager and of a worker: what is answered is
// what docs/protocols.md says.
func TestProtocols(t *testing.T) {
	r := newProtocolRig(t)
	r.await()
	text, err := os.ReadFile(protocolsDoc)
	if err != nil {
		t.Fatal(err)
	}
	doc := string(text)
	for _, role := range []string{"manager", "worker"} {
		begin, end := "<!-- walk of a "+role+" -->\n", "<!-- end -->"
		before, rest, ok := strings.Cut(doc, begin)
		was, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("%s has no table between %q and %q", protocolsDoc, begin, end)
		}
		got := r.walk(role)
		if got != was && !*updateProtocols {
			t.Errorf("a %s does not do what %s says (look, and run with -update):\n%s", role, protocolsDoc, differing(was, got))
		}
		doc = before + begin + got + end + after
	}
	if *updateProtocols {
		if err := os.WriteFile(protocolsDoc, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// await returns when both daemons judge.
func (r *protocolRig) await() {
	r.t.Helper()
	for role := range r.addrs {
		eventually.Nil(r.t, "the "+role+" takes connections", func() error {
			conn, err := r.tls(role, protoRoots, pki.Credential{})
			if err == nil {
				_ = conn.Close()
			}
			return err
		})
	}
	eventually.True(r.t, "the manager judges", func() bool { return r.admitted("manager", transport.ProtoRaft, r.caller("manager")) })
}

// open makes a connection that is kept.
func (r *protocolRig) open(role, alpn string, c protocolCaller) *tls.Conn {
	r.t.Helper()
	conn, err := r.tls(role, alpn, c.of(alpn))
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if err != nil {
		r.t.Fatalf("%s at a %s: %v", alpn, role, err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// closed waits for the end of a connection.
func closed(t *testing.T, what string, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s is open after 20s", what)
	}
}

// stillOpen fails if a connection has ended.
func stillOpen(t *testing.T, what string, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: got %v, want it open", what, err)
	}
}

// What is open when a role, a membership or a key goes is closed, and nothing else.
func TestProtocols_CloseWhatIsOpen(t *testing.T) {
	r := newProtocolRig(t)
	r.await()
	c := r.node(swarmv1.NodeSpec_MANAGER, time.Hour)
	id := idOfCert(c.cred)
	row := func() *swarmv1.Node {
		n, _ := r.store.View().Nodes.Get(id)
		return n.CloneVT()
	}
	rekey := func(key []byte) {
		t.Helper()
		n := row()
		n.PublicKey = key
		r.commit(raftstore.Update(n))
		r.told["worker"].Apply([]*swarmv1.AssignmentChange{{Change: &swarmv1.AssignmentChange_Put{Put: &swarmv1.Assignment{
			Object: &swarmv1.Assignment_Peering{Peering: &swarmv1.Peering{NodeId: id, PublicKeys: [][]byte{key}}},
		}}}})
	}
	key := c.cred.Cert.RawSubjectPublicKeyInfo
	rekey(key)
	r.hooks["worker"].OnNode(&swarmv1.NodeUpdate{Managers: []*swarmv1.Peer{{NodeId: id, Addr: "127.0.0.1", Port: 1}}})

	raft := r.open("manager", transport.ProtoRaft, c)
	blob, blobOfWorker := r.open("manager", transport.ProtoBlob, c), r.open("worker", transport.ProtoBlob, c)
	conn, err := grpc.NewClient("passthrough:///"+r.addrs["worker"], grpc.WithNoProxy(), grpc.WithTransportCredentials(credentials.NewTLS(r.config(transport.ProtoGRPC, c.cred))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	logs, err := conn.NewStream(metadata.AppendToOutgoingContext(t.Context(), holdOn, "1"), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/swarm.v1.Worker/Logs")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := logs.Header(); err != nil {
		t.Fatal("a manager that reads logs: ", err)
	}

	ended := make(chan error, 1)
	go func() { ended <- logs.RecvMsg(&emptypb.Empty{}) }()

	// Another key, and the old one forgotten: what runs goes on, and blobs are fetched anew.
	rekey([]byte("newer"))
	closed(t, "the blob connection of a key that was replaced", blob)
	closed(t, "the blob connection of a key that was replaced, at a worker", blobOfWorker)
	stillOpen(t, "the Raft connection of a node that renewed its certificate", raft)
	select {
	case err := <-ended:
		t.Errorf("the renewal cut a stream of its node: %v", err)
	default:
	}
	rekey(key)
	blob, blobOfWorker = r.open("manager", transport.ProtoBlob, c), r.open("worker", transport.ProtoBlob, c)

	demoted := row()
	demoted.Spec.Role = swarmv1.NodeSpec_WORKER
	r.commit(raftstore.Update(demoted))
	closed(t, "the Raft connection of a manager that was demoted", raft)
	stillOpen(t, "the blob connection of a node that was demoted", blob)
	r.hooks["worker"].OnNode(&swarmv1.NodeUpdate{Managers: []*swarmv1.Peer{{NodeId: idOfCert(r.caller("manager").cred), Addr: "127.0.0.1", Port: 1}}})
	if err := <-ended; status.Code(err) != codes.Unavailable {
		t.Errorf("a former manager goes on reading logs: %v", err)
	}
	stillOpen(t, "the blob connection of a node that was demoted, at a worker", blobOfWorker)

	r.commit(raftstore.Delete(row()))
	closed(t, "the blob connection of a node that was removed", blob)
	r.told["worker"].Apply([]*swarmv1.AssignmentChange{{Change: &swarmv1.AssignmentChange_Remove{
		Remove: &swarmv1.AssignmentRef{Kind: swarmv1.AssignmentRef_PEERING, Id: id},
	}}})
	closed(t, "the blob connection of a node that was removed, at a worker", blobOfWorker)
}

// differing lists the lines that are not the same.
func differing(want, got string) string {
	var out strings.Builder
	for _, l := range strings.Split(want, "\n") {
		if !strings.Contains(got, l) {
			fmt.Fprintln(&out, "- ", l)
		}
	}
	for _, l := range strings.Split(got, "\n") {
		if !strings.Contains(want, l) {
			fmt.Fprintln(&out, "+ ", l)
		}
	}
	return out.String()
}

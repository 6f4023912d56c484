package main

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

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
	"swarm/raftstore/table"
)

// protocolRig has the two kinds of nodes of the table: real daemons of package node with real
// listeners and a real store. Stubs stand for the services.
type protocolRig struct {
	t       *testing.T
	store   *raftstore.Store
	manager *manager.Manager
	root    *pki.Root
	bundle  *pki.Bundle
	addrs   map[string]string // of the two daemons, by role
	callers []protocolCaller
	mu      sync.Mutex                  // guards told and hooks while the daemons start
	told    map[string]*members.Members // the members that each daemon knows, by role
	hooks   map[string]node.WorkerHooks // by role
}

// protocolCaller is a column of the table.
type protocolCaller struct {
	name string
	// cred is the credential that the caller presents. For Raft it presents asManager, if such a
	// caller can have one.
	cred, asManager pki.Credential
}

// of returns the credential that the caller presents for a protocol.
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
	founding, err := ca.NewCluster(ca.BootstrapConfig{NodeID: self, CSR: csr, Addr: "127.0.0.1", Port: 1, MachineID: "m", Hostname: "m", Format: table.Format}, time.Now())
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

// node creates a node row with the role and returns a caller with both kinds of certificate.
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
		table.Create(&swarmv1.Node{Id: id, Addr: "127.0.0.1", Port: 1, MachineId: id, Hostname: id[:8], PublicKey: cert.RawSubjectPublicKeyInfo, Spec: &swarmv1.NodeSpec{Role: role}}),
		table.Create(&swarmv1.NodeState{NodeId: id, State: swarmv1.NodeState_READY}))
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
	worker.asManager = pki.Credential{} // The node was never a manager.
	add("demoted", r.node(swarmv1.NodeSpec_WORKER, time.Hour))
	removed := add("removed", r.node(swarmv1.NodeSpec_MANAGER, time.Hour))
	gone, _ := r.store.View().Nodes.Get(idOfCert(removed.cred))
	r.commit(table.Delete(gone))
	replaced := add("replaced key", r.node(swarmv1.NodeSpec_WORKER, time.Hour))
	replaced.asManager = pki.Credential{}
	row, _ := r.store.View().Nodes.Get(idOfCert(replaced.cred))
	row = row.CloneVT()
	row.PublicKey = []byte("newer")
	r.commit(table.Update(row))
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
			r.commit(table.Create(&swarmv1.Credential{Id: pki.Serial(cert), Name: "jane", Until: timestamppb.New(cert.NotAfter)}))
		}
	}
	add("anonymous", protocolCaller{})
}

// run runs the daemon of a host that is a member already.
func (r *protocolRig) run(role, id string, cred pki.Credential) {
	r.t.Helper()
	dir, err := os.MkdirTemp("", "protocols") // The path of t.TempDir is too long for a socket.
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
		if c.name == "manager" || c.name == "demoted" || c.name == "removed" { // A worker may have stale rows of these nodes.
			membership.Managers = append(membership.Managers, node.Peer{NodeID: idOfCert(c.cred), Addr: "127.0.0.1", Port: 1})
		}
	}
	if role == "worker" { // The worker also knows of the demotion.
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

// greet writes one byte to every connection of a listener. A caller that reads it has been
// admitted.
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

// holdOn is a metadata key. A call with it does not return before its context ends.
const holdOn = "hold-on"

// stub registers services whose every method returns Unimplemented. A caller that gets this code
// was let through.
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
	r.mu.Lock()
	r.told[role], r.hooks[role] = b.Members, hooks
	r.mu.Unlock()
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
	stub(reg, "Worker", "Disk", "NodeVolumes", "NodeStats", "Doctor", "Admission")
}
func (w stubWorker) Connected(context.Context) error { return nil }
func (w stubWorker) Refusal() error                  { return nil }
func (w stubWorker) Tasks() int                      { return 0 }
func (w stubWorker) Announce(context.Context)        {}
func (w stubWorker) Depart(context.Context) error    { return nil }
func (w stubWorker) Close() error                    { return w.blobs.Close() }

// stubManager is a manager that decides on callers but has no services.
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
	stub(reg, "Control", "Disks", "Volumes", "Stats", "CA", "Raft", "Dispatcher", "Liveness")
}
func (m stubManager) Resolve(string) (node.Peer, bool) { return node.Peer{}, false }
func (m stubManager) Status() node.ManagerStatus       { return node.ManagerStatus{Voter: true} }

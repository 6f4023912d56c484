package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/eventually"
	"swarm/internal/ident"
	"swarm/internal/pki"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

func itoa(n uint16) string { return strconv.Itoa(int(n)) }

// cluster is shared by all nodes of a test: the certificate authority, and the objects that
// managers would replicate.
type cluster struct {
	t        *testing.T
	root     *pki.Root
	token    pki.Token
	validity time.Duration
	role     swarmv1.NodeSpec_Role // of nodes that join
	refuse   error                 // the error that Join returns
	forged   bool                  // the authority answers Join without knowing the token
	renewals atomic.Int32

	mu       sync.Mutex // guards managers
	managers []*swarmv1.Peer
}

func newCluster(t *testing.T) *cluster {
	root, err := pki.CreateRoot(ident.NewID(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t: t, root: root, token: pki.NewToken(root.Cert), validity: time.Hour}
}

func (c *cluster) bundle() []byte {
	b, err := pki.NewBundle(c.root.Cert)
	if err != nil {
		c.t.Error(err)
		return nil
	}
	return b.PEM()
}

func (c *cluster) peers() []*swarmv1.Peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.managers
}

func (c *cluster) sign(csr []byte, id string) ([]byte, error) {
	cert, err := c.root.SignNode(csr, id, c.validity, time.Now())
	if err != nil {
		return nil, err
	}
	return pki.EncodeCert(cert), nil
}

// authority is the CA service of a manager.
type authority struct {
	swarmv1.UnimplementedCAServer
	*cluster
}

func (a authority) Join(ctx context.Context, r *swarmv1.JoinRequest) (*swarmv1.JoinResponse, error) {
	if a.refuse != nil {
		return nil, a.refuse
	}
	if i, err := transport.Proved(ctx, a.token); (err != nil || i != 0) && !a.forged {
		return nil, errdefs.ErrPermissionDenied.WithMessage("the join token is not valid")
	}
	if !a.forged {
		if err := transport.AnswerProof(ctx, a.token); err != nil {
			return nil, err
		}
	}
	id := ident.NewID()
	cert, err := a.sign(r.Csr, id)
	if err != nil {
		return nil, err
	}
	return &swarmv1.JoinResponse{
		NodeId: id, ClusterId: a.root.ClusterID(), Role: a.role, Certificate: cert, Bundle: a.bundle(), Managers: a.peers(),
		GossipKeys: []*swarmv1.EncryptionKey{{Key: []byte("key")}},
	}, nil
}

func (a authority) Renew(ctx context.Context, r *swarmv1.RenewRequest) (*swarmv1.RenewResponse, error) {
	who, err := transport.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	cert, err := a.sign(r.Csr, who.NodeID())
	if err != nil {
		return nil, err
	}
	a.renewals.Add(1)
	return &swarmv1.RenewResponse{Certificate: cert, Bundle: a.bundle()}, nil
}

// fakeManager is a voter until the test removes its vote.
type fakeManager struct {
	rig         *rig
	base        Base
	rows        int
	voteRemoved atomic.Bool
	resigned    atomic.Bool
	ended       atomic.Bool
}

func (m *fakeManager) Run(ctx context.Context) error {
	<-ctx.Done()
	m.ended.Store(true)
	return nil
}

func (m *fakeManager) Register(r grpc.ServiceRegistrar) {
	swarmv1.RegisterCAServer(r, authority{cluster: m.rig.cluster})
}
func (m *fakeManager) Authorise(context.Context, string) error { return m.rig.unready }
func (m *fakeManager) Admit(string, transport.AuthInfo) (transport.Trust, error) {
	return transport.Full, nil
}
func (m *fakeManager) Resolve(string) (Peer, bool) { return Peer{}, false }
func (m *fakeManager) Ready(context.Context) error { return nil }
func (m *fakeManager) Resign(context.Context) error {
	m.resigned.Store(true)
	m.voteRemoved.Store(true)
	return nil
}

func (m *fakeManager) Status() ManagerStatus {
	return ManagerStatus{Voter: !m.voteRemoved.Load(), Leader: m.base.Membership.NodeID, Managers: m.rig.managerCount, Nodes: 2}
}

type fakeWorker struct {
	rig    *rig
	hooks  WorkerHooks
	closed atomic.Bool
	// departed is set if Announce was called before gossip left.
	departed atomic.Bool
}

func (w *fakeWorker) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
func (w *fakeWorker) Register(grpc.ServiceRegistrar)  {}
func (w *fakeWorker) Connected(context.Context) error { return nil }
func (w *fakeWorker) Tasks() int                      { return 3 }
func (w *fakeWorker) Refusal() error {
	w.rig.mu.Lock()
	defer w.rig.mu.Unlock()
	return w.rig.refusal
}

func (w *fakeWorker) Announce(context.Context) {
	_, gossip, _ := w.rig.parts()
	w.departed.Store(!gossip.leftGossip.Load())
}

func (w *fakeWorker) Depart(ctx context.Context) error {
	w.Announce(ctx)
	return nil
}
func (w *fakeWorker) Close() error { w.closed.Store(true); return nil }

type fakeGossip struct {
	leftGossip, closed atomic.Bool
	keys               atomic.Pointer[[][]byte] // of the last update
}

func (g *fakeGossip) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
func (g *fakeGossip) Members() []*swarmv1.Member  { return []*swarmv1.Member{{NodeId: "x"}} }
func (g *fakeGossip) Resolve(string) (Peer, bool) { return Peer{}, false }
func (g *fakeGossip) UpdateKeys(keys [][]byte) error {
	g.keys.Store(&keys)
	return nil
}
func (g *fakeGossip) Leave(context.Context) error { g.leftGossip.Store(true); return nil }
func (g *fakeGossip) Close() error                { g.closed.Store(true); return nil }

// rig is one host: a node with fake parts, real files and real TLS on the loopback interface.
type rig struct {
	t            *testing.T
	cluster      *cluster
	cfg          Config
	port         uint16
	client       swarmv1.DaemonClient
	conn         *grpc.ClientConn
	hold         chan struct{} // if not nil, NewManager waits until it is closed
	managerCount int           // number of managers that this manager knows
	unready      error         // the error that this host's manager returns for every call
	cleaned      atomic.Int32
	noWorker     error // the error that NewWorker returns
	lost         error // the error that NewManager returns
	stop         func() error
	node         *Node

	mu       sync.Mutex // guards the fields below; the parts are the newest
	refusal  error      // why the managers do not serve this node
	managers []*fakeManager
	worker   *fakeWorker
	gossip   *fakeGossip
}

// newRig returns a host whose daemon is not running; up starts it.
func newRig(t *testing.T, c *cluster) *rig {
	dir, err := os.MkdirTemp("", "node") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	_ = ln.Close()
	return &rig{
		t: t, cluster: c, port: uint16(port), managerCount: 1,
		cfg: Config{StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), Hostname: "host", MachineID: "machine"},
	}
}

func (r *rig) addr() string { return Peer{Addr: "127.0.0.1", Port: r.port}.HostPort() }

func (r *rig) deps() Deps {
	return Deps{
		Log: slog.New(slog.DiscardHandler), Bootstrap: r.bootstrap, Describe: func() *swarmv1.NodeDescription { return nil },
		NewGossip: func(Base) (Gossip, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.gossip = &fakeGossip{}
			return r.gossip, nil
		},
		NewWorker: func(_ Base, _ Gossip, hooks WorkerHooks) (Worker, error) {
			if r.noWorker != nil {
				return nil, r.noWorker
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.worker = &fakeWorker{rig: r, hooks: hooks}
			return r.worker, nil
		},
		NewManager: func(b Base, _ Gossip, rows []*swarmv1.Change) (Manager, error) {
			if r.hold != nil {
				<-r.hold
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.lost != nil {
				return nil, r.lost
			}
			if b.Membership.ManagerLog == "" {
				if err := b.LogCreated(fmt.Sprintf("log-%d", len(r.managers)+1)); err != nil {
					return nil, err
				}
			}
			m := &fakeManager{rig: r, base: b, rows: len(rows)}
			r.managers = append(r.managers, m)
			if err := r.issueManagerCertificate(b); err != nil {
				return nil, err
			}
			return m, os.WriteFile(filepath.Join(b.Dir, "secrets"), nil, 0o600)
		},
		Clean: func(context.Context) error { r.cleaned.Add(1); return nil },
	}
}

// issueManagerCertificate gives the node the certificate that a manager signs for itself.
func (r *rig) issueManagerCertificate(b Base) error {
	key := b.Identity.Credential().Key
	csr, err := pki.CreateCSR(key)
	if err != nil {
		return err
	}
	cert, err := r.cluster.root.SignManager(csr, pki.Manager{NodeID: b.Membership.NodeID}, time.Hour, time.Now())
	if err != nil {
		return err
	}
	cred, err := pki.NewCredential(cert, key)
	if err != nil {
		return err
	}
	return b.Identity.SetManager(cred)
}

func (r *rig) bootstrap(q BootstrapRequest) (Bootstrapped, error) {
	// The bootstrapped cluster becomes the cluster of the authority.
	root, err := pki.CreateRoot(q.ClusterID, time.Now())
	if err != nil {
		return Bootstrapped{}, err
	}
	c := r.cluster
	c.root, c.token = root, pki.NewToken(root.Cert)
	cert, err := c.sign(q.CSR, q.NodeID)
	c.mu.Lock()
	c.managers = []*swarmv1.Peer{{NodeId: q.NodeID, Addr: q.Membership.Addr, Port: uint32(q.Membership.Port)}}
	c.mu.Unlock()
	return Bootstrapped{
		Rows: []*swarmv1.Change{{}}, Certificate: cert, Bundle: c.bundle(), GossipKeys: [][]byte{[]byte("key")},
		WorkerToken: c.token.String(),
	}, err
}

// up starts the daemon and returns when it answers. The daemon stops at the end of the test, or by
// r.stop.
func (r *rig) up() *rig {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := New(r.cfg, r.deps())
	r.node = n
	n.addrs = host(map[string][]string{"eth0": {"10.0.0.1"}, "eth1": {"10.0.1.1"}})
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	var once sync.Once
	r.stop = func() (err error) {
		once.Do(func() {
			cancel()
			select {
			case err = <-done:
			case <-time.After(10 * time.Second):
				err = errors.New("the daemon does not stop within 10 s")
			}
		})
		return err
	}
	r.t.Cleanup(func() {
		if err := r.stop(); err != nil {
			r.t.Errorf("the daemon ended: %v", err)
		}
	})
	// The socket's file exists before the daemon listens.
	eventually.True(r.t, "the daemon listens", func() bool {
		conn, err := net.Dial("unix", r.cfg.Socket())
		return err == nil && conn.Close() == nil
	})
	conn, err := transport.DialUnix(r.cfg.Socket())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	r.client, r.conn = swarmv1.NewDaemonClient(conn), conn
	return r
}

func (r *rig) init() *swarmv1.InitResponse {
	r.t.Helper()
	response, err := r.client.Init(r.t.Context(), &swarmv1.InitRequest{AdvertiseAddr: r.addr()})
	if err != nil {
		r.t.Fatal(err)
	}
	return response
}

func (r *rig) join(token, manager string) (*swarmv1.JoinClusterResponse, error) {
	return r.client.Join(r.t.Context(), &swarmv1.JoinClusterRequest{Token: token, RemoteAddrs: []string{manager}, AdvertiseAddr: r.addr()})
}

func (r *rig) info() *swarmv1.InfoResponse {
	r.t.Helper()
	info, err := r.client.Info(r.t.Context(), &swarmv1.InfoRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	return info
}

func (r *rig) parts() (*fakeWorker, *fakeGossip, []*fakeManager) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.worker, r.gossip, append([]*fakeManager(nil), r.managers...)
}

// nodeUpdate delivers a manager's update about this node.
func (r *rig) nodeUpdate(u *swarmv1.NodeUpdate) {
	w, _, _ := r.parts()
	w.hooks.OnNode(u)
}

func (r *rig) certificate() *x509.Certificate {
	r.t.Helper()
	cred, _, err := (disk{dir: r.cfg.StateDir}).credential().Load()
	if err != nil {
		r.t.Fatal(err)
	}
	return cred.Cert
}

// wantNoState fails the test if a file of a cluster is left on the host's disk.
func (r *rig) wantNoState() {
	r.t.Helper()
	_ = filepath.WalkDir(r.cfg.StateDir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			r.t.Errorf("%s is left on disk", path)
		}
		return nil
	})
}

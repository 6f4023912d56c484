package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"swarm/internal/eventually"
	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
)

func wantError(t *testing.T, what string, err error, class func(error) bool, text string) {
	t.Helper()
	if !class(err) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: got %v; want an error of the expected class with %q", what, err, text)
	}
}

func role(r swarmv1.NodeSpec_Role) *swarmv1.NodeUpdate {
	return &swarmv1.NodeUpdate{Node: &swarmv1.Node{Spec: &swarmv1.NodeSpec{Role: r}}}
}

func TestNode_InitInfoLeave(t *testing.T) {
	r := newRig(t, newCluster(t)).up()
	if got := r.info(); got.LocalNodeState != "inactive" || got.NodeId != "" {
		t.Errorf("info at first: %v, want inactive", got)
	}
	_, err := r.client.Leave(t.Context(), &swarmv1.LeaveRequest{})
	wantError(t, "leave at first", err, errdefs.IsFailedPrecondition, "not part of a swarm")

	made := r.init()
	got := r.info()
	if got.LocalNodeState != "active" || got.NodeId != made.NodeId || got.ClusterId != made.ClusterId || got.NodeAddr != "127.0.0.1" ||
		got.Role != swarmv1.NodeSpec_MANAGER || !got.ControlAvailable || got.Managers != 1 || got.Nodes != 2 || got.Tasks != 3 || len(got.Members) != 1 {
		t.Errorf("info after init: %v", got)
	}
	if made.Addr != r.addr() || made.WorkerToken != r.cluster.token.String() {
		t.Errorf("init: %v, want the address %s and the worker's token", made, r.addr())
	}
	if _, _, managers := r.parts(); len(managers) != 1 || managers[0].rows != 1 {
		t.Errorf("managers made: %v, want one with the first rows", managers)
	}
	_, err = r.client.Init(t.Context(), &swarmv1.InitRequest{AdvertiseAddr: r.addr()})
	wantError(t, "init twice", err, errdefs.IsFailedPrecondition, "already part of a swarm")
	_, err = r.join(r.cluster.token.String(), r.addr())
	wantError(t, "join after init", err, errdefs.IsFailedPrecondition, "already part of a swarm")

	_, err = r.client.Leave(t.Context(), &swarmv1.LeaveRequest{})
	wantError(t, "the last manager leaves", err, errdefs.IsFailedPrecondition, "--force")
	if _, err := r.client.Leave(t.Context(), &swarmv1.LeaveRequest{Force: true}); err != nil {
		t.Fatal(err)
	}
	if got := r.info(); got.LocalNodeState != "inactive" || r.cleaned.Load() != 1 {
		t.Errorf("after leave: %v, cleaned %d times", got, r.cleaned.Load())
	}
	if _, gossip, _ := r.parts(); !gossip.leftGossip.Load() {
		t.Error("the node left without leaving gossip")
	}
	r.wantNoState()
	if again := r.init(); again.ClusterId == made.ClusterId {
		t.Error("a second cluster has the id of the first")
	}
}

// While a manager's daemon starts, its error says that the daemon is starting, and not that the
// node is no manager.
func TestNode_StartingManagerSaysSo(t *testing.T) {
	r := newRig(t, newCluster(t)).up()
	ask := func() error {
		_, err := swarmv1.NewCAClient(r.conn).Roots(t.Context(), &swarmv1.RootsRequest{})
		return err
	}
	wantError(t, "a host of no cluster", ask(), errdefs.IsUnavailable, "not a swarm manager")
	r.init()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r.hold = make(chan struct{})
	r.up()
	wantError(t, "a manager that starts", ask(), errdefs.IsUnavailable, "this node's daemon is starting: try again in a moment")
	close(r.hold)
	eventually.True(t, "the manager answers", func() bool { return errdefs.IsNotImplemented(ask()) })
}

// If the managers refuse a node, for example a cloned disk, the node's own manager returns their
// reason.
func TestNode_RefusedManagerSaysWhy(t *testing.T) {
	r := newRig(t, newCluster(t))
	r.unready = errdefs.ErrUnavailable.WithMessage("this manager has not received the cluster's state yet")
	r.up().init()
	ask := func() error {
		_, err := swarmv1.NewCAClient(r.conn).Roots(t.Context(), &swarmv1.RootsRequest{})
		return err
	}
	eventually.True(t, "the manager answers", func() bool { return strings.Contains(ask().Error(), "has not received") })
	r.mu.Lock()
	r.refusal = fmt.Errorf("greet manager m1: %w", errdefs.ErrAlreadyExists.WithMessage("node id n is already in use by h (a cloned disk?): run `swarm leave --force` on one"))
	r.mu.Unlock()
	wantError(t, "a refused node", ask(), errdefs.IsUnavailable, "the cluster does not accept this node: node id n is already in use by h (a cloned disk?)")
}

func TestNode_SeveralAddressesAreRefusedWithTheList(t *testing.T) {
	r := newRig(t, newCluster(t)).up()
	_, err := r.client.Init(t.Context(), &swarmv1.InitRequest{})
	wantError(t, "init", err, errdefs.IsInvalidArgument, "10.0.0.1 (eth0), 10.0.1.1 (eth1)")
	r.wantNoState()
}

// pair returns a manager and a host that has not joined.
func pair(t *testing.T) (manager, host *rig) {
	c := newCluster(t)
	manager, host = newRig(t, c).up(), newRig(t, c).up()
	manager.init()
	return manager, host
}

func TestNode_JoinAndLeave(t *testing.T) {
	manager, host := pair(t)
	joined, err := host.join(manager.cluster.token.String(), manager.addr())
	if err != nil {
		t.Fatal(err)
	}
	got := host.info()
	if got.LocalNodeState != "active" || got.NodeId != joined.NodeId || got.ClusterId != manager.info().ClusterId || got.Role != swarmv1.NodeSpec_WORKER {
		t.Errorf("info after join: %v", got)
	}
	worker, _, _ := host.parts()
	if _, err := host.client.Leave(t.Context(), &swarmv1.LeaveRequest{}); err != nil {
		t.Fatal(err)
	}
	host.wantNoState()
	if !worker.departed.Load() {
		t.Error("the managers were not told before gossip left, want so: else they refuse the host when it joins again")
	}
}

func TestNode_JoinThatFailsLeavesNothing(t *testing.T) {
	manager, host := pair(t)
	good := manager.cluster.token.String()
	other := newCluster(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	wrongSecret := pki.NewToken(manager.cluster.root.Cert).String()
	for _, c := range []struct {
		name, token, advertise string
		prepare                func()
		class                  func(error) bool
		text                   string
	}{
		{"no token", "nonsense", host.addr(), nil, errdefs.IsInvalidArgument, "SWMTKN"},
		{"another cluster's token", other.token.String(), host.addr(), nil, func(err error) bool { return err != nil }, "names the root"},
		{"wrong secret", wrongSecret, host.addr(), nil, errdefs.IsPermissionDenied, "not valid"},
		{"port taken", good, taken.Addr().String(), nil, func(err error) bool { return err != nil }, "--listen-addr"},
		{"a server that does not know the token", good, host.addr(), func() { manager.cluster.forged = true }, errdefs.IsUnauthorized, "does not know the join token"},
		{"refused", good, host.addr(), func() {
			manager.cluster.forged, manager.cluster.refuse = false, errdefs.ErrFailedPrecondition.WithMessage("cloned")
		}, errdefs.IsFailedPrecondition, "cloned"},
		{"no worker", good, host.addr(), func() { manager.cluster.refuse, host.noWorker = nil, errors.New("no containerd") }, func(err error) bool { return err != nil }, "no containerd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.prepare != nil {
				c.prepare()
			}
			_, err := host.client.Join(t.Context(), &swarmv1.JoinClusterRequest{Token: c.token, RemoteAddrs: []string{manager.addr()}, AdvertiseAddr: c.advertise})
			wantError(t, "join", err, c.class, c.text)
			host.wantNoState()
			if got := host.info(); got.LocalNodeState != "inactive" {
				t.Errorf("info: %v, want inactive", got)
			}
		})
	}
	if _, gossip, _ := host.parts(); !gossip.closed.Load() {
		t.Error("the gossip of a member without worker stays open: its port is taken")
	}
	host.noWorker = nil
	if _, err := host.join(good, manager.addr()); err != nil {
		t.Errorf("join after all: %v", err)
	}
}

// A manager closes connections if one network has too many, and reports that its cluster has no
// leader. In both cases the host tries again.
func TestNode_JoinTriesAgainWhenInterrupted(t *testing.T) {
	manager, host := pair(t)
	busy := flakyProxy(t, manager.addr(), 3)
	if _, err := host.join(manager.cluster.token.String(), busy); err != nil {
		t.Errorf("join through a manager that closes the first connections: %v", err)
	}
}

// flakyProxy forwards connections to an address and returns its own address. Of the first
// connections it closes every second one before the handshake, so that both the first contact and
// the request are interrupted.
func flakyProxy(t *testing.T, to string, first int) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	g.Go(func() error {
		for n := 0; ; n++ {
			conn, err := ln.Accept()
			if err != nil {
				return nil // the test has ended
			}
			if n < 2*first && n%2 == 0 {
				_ = conn.Close()
				continue
			}
			g.Go(func() error {
				defer conn.Close()
				out, err := net.Dial("tcp", to)
				if err != nil {
					return err
				}
				defer out.Close()
				go func() { _, _ = io.Copy(out, conn); _ = out.Close() }() // ends with conn
				_, _ = io.Copy(conn, out)
				return nil
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

func TestNode_JoinTriesTheNextManager(t *testing.T) {
	manager, host := pair(t)
	gone := newRig(t, manager.cluster) // its daemon never runs, so its port refuses connections
	_, err := host.join(manager.cluster.token.String(), gone.addr())
	wantError(t, "join through a host without a daemon", err, errdefs.IsUnavailable, gone.addr())
	if _, err := host.client.Join(t.Context(), &swarmv1.JoinClusterRequest{
		Token: manager.cluster.token.String(), RemoteAddrs: []string{gone.addr(), manager.addr()}, AdvertiseAddr: host.addr(),
	}); err != nil {
		t.Error(err)
	}
}

func TestNode_RestartResumesFromDisk(t *testing.T) {
	r := newRig(t, newCluster(t)).up()
	made := r.init()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r.up()
	eventually.True(t, "the node is active again", func() bool { return r.info().ControlAvailable })
	if got := r.info(); got.NodeId != made.NodeId || got.ClusterId != made.ClusterId {
		t.Errorf("info after restart: %v, want node %s of %s", got, made.NodeId, made.ClusterId)
	}
	if _, _, managers := r.parts(); len(managers) != 2 || managers[1].rows != 0 {
		t.Errorf("managers made: %d, the second with %d rows; want 2, none", len(managers), managers[1].rows)
	}
}

// When a host shuts down, the worker departs first, and then the node leaves gossip. The membership
// stays.
func TestNode_DepartStaysAMember(t *testing.T) {
	r := newRig(t, newCluster(t)).up()
	if err := r.node.Depart(t.Context()); err != nil {
		t.Fatalf("no member: %v", err)
	}
	r.init()
	if err := r.node.Depart(t.Context()); err != nil {
		t.Fatal(err)
	}
	worker, gossip, _ := r.parts()
	if !worker.departed.Load() || !gossip.leftGossip.Load() {
		t.Errorf("the worker departed before gossip left: %v; gossip left: %v; want both", worker.departed.Load(), gossip.leftGossip.Load())
	}
	if info := r.info(); info.LocalNodeState != "active" {
		t.Errorf("the node is %s, want active", info.LocalNodeState)
	}
}

func TestNode_DamagedMembershipIsReportedAndCanBeLeft(t *testing.T) {
	r := newRig(t, newCluster(t)).up()
	r.init()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile((disk{dir: r.cfg.StateDir}).file(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.up()
	eventually.True(t, "info reports the error", func() bool { return r.info().LocalNodeState == "error" })
	if got := r.info().Error; !strings.Contains(got, "node.json is damaged") {
		t.Errorf("info: %q", got)
	}
	_, err := r.client.Init(t.Context(), &swarmv1.InitRequest{AdvertiseAddr: r.addr()})
	wantError(t, "init over it", err, errdefs.IsDataLoss, "leave --force")
	_, err = r.client.Leave(t.Context(), &swarmv1.LeaveRequest{})
	wantError(t, "leave", err, errdefs.IsDataLoss, "leave --force")
	if _, err := r.client.Leave(t.Context(), &swarmv1.LeaveRequest{Force: true}); err != nil {
		t.Fatal(err)
	}
	r.wantNoState()
	r.init()
}

func TestNode_ManagerThatLeavesByForceGivesUpItsVote(t *testing.T) {
	for managers, want := range map[int]bool{1: false, 3: true} {
		r := newRig(t, newCluster(t))
		r.managerCount = managers
		r.up().init()
		if _, err := r.client.Leave(t.Context(), &swarmv1.LeaveRequest{Force: true}); err != nil {
			t.Fatal(err)
		}
		if _, _, made := r.parts(); made[0].resigned.Load() != want {
			t.Errorf("with %d managers, the leaving one resigns: got %t, want %t", managers, !want, want)
		}
	}
}

func TestNode_RoleStartsAndStopsTheManager(t *testing.T) {
	manager, host := pair(t)
	if _, err := host.join(manager.cluster.token.String(), manager.addr()); err != nil {
		t.Fatal(err)
	}
	host.nodeUpdate(role(swarmv1.NodeSpec_MANAGER))
	eventually.True(t, "the manager runs", func() bool { return host.info().ControlAvailable })
	_, _, managers := host.parts()
	if !managers[0].base.Membership.Manager || managers[0].rows != 0 {
		t.Errorf("the manager was made with %+v and %d rows", managers[0].base.Membership, managers[0].rows)
	}

	// The manager must not stop before its vote is removed.
	host.nodeUpdate(role(swarmv1.NodeSpec_WORKER))
	if managers[0].ended.Load() {
		t.Error("a manager stopped while it had a vote: the others may be without a majority")
	}
	managers[0].voteRemoved.Store(true)
	eventually.True(t, "its folder is deleted", func() bool {
		_, err := os.Stat((disk{dir: host.cfg.StateDir}).managerDir())
		return errors.Is(err, os.ErrNotExist)
	})
	if got := host.info(); !managers[0].ended.Load() || got.ControlAvailable || got.Role != swarmv1.NodeSpec_WORKER || got.LocalNodeState != "active" {
		t.Errorf("after demotion: ended %v, info %v", managers[0].ended.Load(), got)
	}
	if m, err := (disk{dir: host.cfg.StateDir}).load(); err != nil || m.Manager {
		t.Errorf("remembered: %+v, %v", m, err)
	}
	host.nodeUpdate(role(swarmv1.NodeSpec_MANAGER))
	eventually.True(t, "the manager runs again", func() bool { return host.info().ControlAvailable })
}

func TestNode_RemovedNodeDeletesItsMembership(t *testing.T) {
	manager, host := pair(t)
	if _, err := host.join(manager.cluster.token.String(), manager.addr()); err != nil {
		t.Fatal(err)
	}
	host.nodeUpdate(&swarmv1.NodeUpdate{Removed: true})
	eventually.True(t, "the node is inactive", func() bool { return host.info().LocalNodeState == "inactive" })
	host.wantNoState()
	if host.cleaned.Load() != 1 {
		t.Errorf("cleaned %d times, want once", host.cleaned.Load())
	}
	if _, err := host.join(manager.cluster.token.String(), manager.addr()); err != nil {
		t.Errorf("join again: %v", err)
	}
}

func TestNode_ManagersAndRootsAreStored(t *testing.T) {
	manager, host := pair(t)
	if _, err := host.join(manager.cluster.token.String(), manager.addr()); err != nil {
		t.Fatal(err)
	}
	next, err := pki.CreateRoot(manager.cluster.root.ClusterID(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := pki.NewBundle(manager.cluster.root.Cert, next.Cert)
	if err != nil {
		t.Fatal(err)
	}
	host.nodeUpdate(&swarmv1.NodeUpdate{Managers: []*swarmv1.Peer{{NodeId: "m9", Addr: "10.9.9.9", Port: 99}}, Bundle: bundle.PEM()})
	d := disk{dir: host.cfg.StateDir}
	if m, err := d.load(); err != nil || len(m.Managers) != 1 || m.Managers[0] != (Peer{NodeID: "m9", Addr: "10.9.9.9", Port: 99}) {
		t.Errorf("remembered: %+v, %v", m, err)
	}
	if _, roots, err := d.credential().Load(); err != nil || roots.Digest() != bundle.Digest() {
		t.Errorf("roots on disk: %v, want both", err)
	}
}

func TestNode_RenewsAtHalfOfACertificatesLife(t *testing.T) {
	manager, host := pair(t)
	manager.cluster.validity = 6 * time.Second
	if _, err := host.join(manager.cluster.token.String(), manager.addr()); err != nil {
		t.Fatal(err)
	}
	first := host.certificate()
	manager.cluster.validity = time.Hour
	eventually.True(t, "a new certificate", func() bool { return host.certificate().SerialNumber.Cmp(first.SerialNumber) != 0 })
	next := host.certificate()
	if time.Until(first.NotAfter) < 0 {
		t.Error("renewed only after it had expired")
	}
	if next.Subject.CommonName != first.Subject.CommonName || time.Until(next.NotAfter) < 50*time.Minute {
		t.Errorf("renewed: %s until %v", next.Subject, next.NotAfter)
	}
}

// A host that was off while its certificate expired still gets a new one.
func TestNode_RenewsAnExpiredCertificate(t *testing.T) {
	manager, host := pair(t)
	if _, err := host.join(manager.cluster.token.String(), manager.addr()); err != nil {
		t.Fatal(err)
	}
	id := host.info().NodeId
	if err := host.stop(); err != nil {
		t.Fatal(err)
	}
	d := disk{dir: host.cfg.StateDir}
	cred, bundle, err := d.credential().Load()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.CreateCSR(cred.Key)
	if err != nil {
		t.Fatal(err)
	}
	if cred.Cert, err = manager.cluster.root.SignNode(csr, id, time.Minute, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := d.credential().Save(cred, bundle); err != nil {
		t.Fatal(err)
	}
	host.up()
	eventually.True(t, "a certificate that is valid", func() bool { return time.Until(host.certificate().NotAfter) > 0 })
	if got := host.certificate().Subject.CommonName; got != id {
		t.Errorf("the new certificate is for %s, want %s", got, id)
	}
}

func TestNode_OneOperationAtATime(t *testing.T) {
	n := New(Config{StateDir: t.TempDir()}, Deps{})
	n.operation.Lock()
	_, initErr := n.Init(context.Background(), &swarmv1.InitRequest{})
	_, joinErr := n.Join(context.Background(), &swarmv1.JoinClusterRequest{})
	_, leaveErr := n.Leave(context.Background(), &swarmv1.LeaveRequest{})
	for _, err := range []error{initErr, joinErr, leaveErr} {
		wantError(t, "a second operation", err, errdefs.IsUnavailable, "under way")
	}
}

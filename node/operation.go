package node

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
)

// Ports, by default those of Docker Swarm.
const (
	DefaultPort       = 2377
	DefaultGossipPort = 7946
)

// enter begins an operation that makes this host a member.
func (n *Node) enter() error {
	if !n.operation.TryLock() {
		return errdefs.ErrUnavailable.WithMessage("another init, join or leave is under way on this host: wait for it")
	}
	if err := n.broken(); err != nil {
		n.operation.Unlock()
		return err
	}
	if m := n.current(); m != nil {
		n.operation.Unlock()
		return refused("this node is already part of a swarm: use `swarm leave` to leave it and join another one")
	}
	return nil
}

// place decides where the node listens and is reached.
func (n *Node) place(advertiseAddr, listenAddr, dataPathAddr string, gossipPort uint32) (Membership, error) {
	listenHost, port, err := n.listenOn(listenAddr)
	if err != nil {
		return Membership{}, err
	}
	addr, advertised, err := advertise(advertiseAddr, port, n.addrs)
	if err != nil {
		return Membership{}, err
	}
	if err := n.leadsHere(addr, listenHost); err != nil {
		return Membership{}, err
	}
	dataPath := addr
	if dataPathAddr != "" {
		if dataPath, _, err = advertise(dataPathAddr, port, n.addrs); err != nil {
			return Membership{}, err
		}
	}
	switch {
	case gossipPort == 0:
		gossipPort = DefaultGossipPort
	case gossipPort > math.MaxUint16:
		return Membership{}, invalid("gossip port %d is not in 1-65535", gossipPort)
	}
	all, err := n.addrs()
	if err != nil {
		return Membership{}, fmt.Errorf("list addresses: %w", err)
	}
	m := Membership{
		Addr: addr, DataPathAddr: dataPath, AddrOf: interfaceOf(advertiseAddr, addr, all), ListenAddr: listenHost, Port: advertised, GossipPort: uint16(gossipPort),
	}
	if dataPathAddr != "" {
		m.DataPathOf = interfaceOf(dataPathAddr, dataPath, all)
	}
	if listenAddr != "" && port != advertised {
		m.ListenPort = port
	}
	return m, nil
}

// listenOn reads an IP or an interface, with or without port; empty: every address.
func (n *Node) listenOn(given string) (host string, port uint16, err error) {
	host, port, err = splitPort(given, DefaultPort)
	if err != nil {
		return "", 0, invalid("listen address %q: %v", given, err)
	}
	if _, err := netip.ParseAddr(host); host == "" || err == nil {
		return host, port, nil
	}
	return advertise(given, DefaultPort, n.addrs)
}

// Init makes a cluster with this node as its first manager.
func (n *Node) Init(ctx context.Context, req *swarmv1.InitRequest) (*swarmv1.InitResponse, error) {
	switch {
	case req.ForceNewCluster:
		return nil, errdefs.ErrNotImplemented.WithMessage("this build cannot make a new cluster from the state of an old one")
	case req.Spec.GetEncryptionConfig().GetAutoLockManagers():
		return nil, errdefs.ErrNotImplemented.WithMessage("this build cannot lock managers: leave autolock off")
	}
	if err := n.enter(); err != nil {
		return nil, err
	}
	defer n.operation.Unlock()
	state, err := n.place(req.AdvertiseAddr, req.ListenAddr, req.DataPathAddr, req.GossipPort)
	if err != nil {
		return nil, err
	}
	ln, err := listen(state)
	if err != nil {
		return nil, err
	}
	state.NodeID, state.ClusterID, state.Manager = ident.NewID(), ident.NewID(), true
	state.DataPathPort = uint16(req.Spec.GetNetwork().GetDataPathPort()) // Found refuses what is no port.
	state.Managers = []Peer{{NodeID: state.NodeID, Addr: state.Addr, Port: state.Port}}
	key, csr, err := newKey()
	if err != nil {
		_ = ln.Close()
		return nil, err
	}
	founded, err := n.deps.Found(FoundRequest{
		NodeID: state.NodeID, ClusterID: state.ClusterID, CSR: csr, Membership: state, Init: req,
		Hostname: n.cfg.Hostname, MachineID: n.cfg.MachineID,
	})
	if err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("found the cluster: %w", err)
	}
	state.GossipKeys = founded.GossipKeys
	cred, bundle, err := n.remember(&state, founded.Certificate, founded.Bundle, key)
	if err != nil {
		_ = ln.Close()
		return nil, n.undo(err)
	}
	m, err := n.newMember(state, cred, bundle, ln, founded.Rows)
	if err != nil {
		return nil, n.undo(err)
	}
	if err := n.start(ctx, m); err != nil {
		return nil, err
	}
	return &swarmv1.InitResponse{
		NodeId: state.NodeID, ClusterId: state.ClusterID, WorkerToken: founded.WorkerToken,
		Addr: Peer{Addr: state.Addr, Port: state.Port}.HostPort(),
	}, nil
}

// start hands a member to Run, and waits until it takes part.
func (n *Node) start(ctx context.Context, m *member) error {
	select {
	case n.begin <- m:
	case <-ctx.Done():
		m.abandon()
		return n.undo(ctx.Err())
	}
	select {
	case <-m.running:
	case <-ctx.Done():
		return ctx.Err()
	}
	if m.remembered().Manager {
		if err := m.readyToManage(ctx); err != nil {
			return err
		}
	}
	if err := m.worker.Connected(ctx); err != nil {
		return fmt.Errorf("this node is a member, but no manager has welcomed it yet: %w", err)
	}
	return nil
}

func (m *member) readyToManage(ctx context.Context) error {
	for {
		manager, changed := m.managing()
		if manager != nil {
			if err := manager.Ready(ctx); err != nil {
				return fmt.Errorf("this node is a member, but not yet a voting manager: %w", err)
			}
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Leave ends the membership and forgets the cluster.
func (n *Node) Leave(ctx context.Context, req *swarmv1.LeaveRequest) (*swarmv1.LeaveResponse, error) {
	if !n.operation.TryLock() {
		return nil, errdefs.ErrUnavailable.WithMessage("another init, join or leave is under way on this host: wait for it")
	}
	defer n.operation.Unlock()
	if err := n.broken(); err != nil {
		if !req.Force {
			return nil, err
		}
		return &swarmv1.LeaveResponse{}, n.forgetBroken(ctx)
	}
	m := n.current()
	if m == nil {
		return nil, refused("this node is not part of a swarm")
	}
	select {
	case <-m.running: // the one on disk may only just have begun
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	manager, _ := m.managing()
	if manager != nil && !req.Force {
		standing := manager.Standing()
		if standing.Managers <= 1 {
			return nil, refused("you are attempting to leave the swarm on its last manager: this erases all its state; use `--force` to ignore this message")
		}
		return nil, refused("you are attempting to leave the swarm on a node that is a manager (%d in all): demote it first with `swarm node demote %s`, or use `--force` to suppress this message", standing.Managers, m.remembered().NodeID)
	}
	if manager != nil && manager.Standing().Managers > 1 {
		m.vacate(ctx, manager)
	}
	m.goodbye(ctx)
	m.end(errLeft)
	select {
	case <-m.gone:
		return &swarmv1.LeaveResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// forgetBroken leaves a cluster of which too little is remembered to take part in it.
func (n *Node) forgetBroken(ctx context.Context) error {
	if err := n.deps.Clean(ctx); err != nil {
		n.deps.Log.Error("remove containers after leaving", "err", err)
	}
	if err := n.disk.forget(); err != nil {
		return fmt.Errorf("forget the cluster: %w", err)
	}
	n.setMember(nil, nil)
	return nil
}

// leavePatience bounds each thing that a node which leaves still asks of the others.
const leavePatience = 3 * time.Second

// vacate has the others take this manager's vote, if they can be asked: a vote of one that is gone counts against them.
func (m *member) vacate(ctx context.Context, manager Manager) {
	ctx, cancel := context.WithTimeout(ctx, leavePatience)
	defer cancel()
	err := manager.Resign(ctx)
	look := time.NewTicker(unseatLook)
	defer look.Stop()
	for err == nil && manager.Standing().Voter {
		select {
		case <-look.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		m.base.Log.Warn("the others still count this manager's vote: run `swarm node rm --force` for it on one of them", "node", m.remembered().NodeID, "err", err)
		return
	}
	m.base.Log.Info("this manager has given up its vote", "node", m.remembered().NodeID)
}

// goodbye tells the others by gossip that this node goes on purpose. One that does not hear it finds out as of a dead one.
func (m *member) goodbye(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leavePatience)
	defer cancel()
	if err := m.gossip.Leave(ctx); err != nil {
		m.base.Log.Warn("say goodbye", "err", err)
	}
}

// Depart is for a host that is going down, while Run runs: the others replace this node's tasks at once, its tasks stop with
// their grace, and its gossip says goodbye. It stays a member, and takes part again when Run runs anew.
func (n *Node) Depart(ctx context.Context) error {
	m := n.current()
	if m == nil {
		return nil
	}
	select {
	case <-m.running:
	case <-ctx.Done():
		return ctx.Err()
	}
	err := m.worker.Depart(ctx)
	m.goodbye(ctx)
	return err
}

// undo forgets what a failed operation has remembered.
func (n *Node) undo(cause error) error {
	if err := n.disk.forget(); err != nil {
		n.deps.Log.Error("forget after a failed join", "err", err)
	}
	return cause
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, nil, err
	}
	csr, err := pki.CreateCSR(key)
	return key, csr, err
}

// credentialOf reads an issued certificate.
func credentialOf(certificate, bundlePEM []byte, key *ecdsa.PrivateKey) (pki.Credential, *pki.Bundle, error) {
	cert, err := pki.ParseCert(certificate)
	if err != nil {
		return pki.Credential{}, nil, err
	}
	cred, err := pki.NewCredential(cert, key)
	if err != nil {
		return pki.Credential{}, nil, err
	}
	bundle, err := pki.ParseBundle(bundlePEM)
	return cred, bundle, err
}

// remember writes the credential, then the membership that makes it count.
func (n *Node) remember(state *Membership, certificate, bundlePEM []byte, key *ecdsa.PrivateKey) (pki.Credential, *pki.Bundle, error) {
	cred, bundle, err := credentialOf(certificate, bundlePEM, key)
	if err != nil {
		return cred, nil, fmt.Errorf("the certificate that was issued: %w", err)
	}
	if err := n.disk.credential().Save(cred, bundle); err != nil {
		return cred, nil, err
	}
	return cred, bundle, n.disk.save(state)
}

// adopt takes over a renewed certificate.
func (m *member) adopt(certificate, bundlePEM []byte, key *ecdsa.PrivateKey) error {
	cred, bundle, err := credentialOf(certificate, bundlePEM, key)
	if err != nil {
		return err
	}
	if err := m.node.disk.credential().Save(cred, bundle); err != nil {
		return err
	}
	if err := m.base.Identity.Set(cred, bundle); err != nil {
		return err
	}
	m.base.Log.Info("certificate renewed", "until", cred.Cert.NotAfter)
	return nil
}

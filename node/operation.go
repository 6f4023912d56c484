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

// The default ports are those of Docker Swarm.
const (
	DefaultPort       = 2377
	DefaultGossipPort = 7946
)

// beginJoin locks n.operation for Init or Join. It returns an error if another operation runs or
// this host is a member already. The caller unlocks n.operation if the error is nil.
func (n *Node) beginJoin() error {
	if !n.operation.TryLock() {
		return errdefs.ErrUnavailable.WithMessage("another init, join or leave is under way on this host: wait until it ends")
	}
	if err := n.damage(); err != nil {
		n.operation.Unlock()
		return err
	}
	if m := n.current(); m != nil {
		n.operation.Unlock()
		return failedPrecondition("this node is already part of a swarm: use `swarm leave` to leave it and join another one")
	}
	return nil
}

// resolveAddresses decides at which addresses and ports the node listens and others reach it.
func (n *Node) resolveAddresses(advertiseAddr, listenAddr, dataPathAddr string, gossipPort uint32) (Membership, error) {
	listenHost, port, err := n.parseListenAddr(listenAddr)
	if err != nil {
		return Membership{}, err
	}
	addr, advertised, err := parseAdvertiseAddr(advertiseAddr, port, n.addrs)
	if err != nil {
		return Membership{}, err
	}
	if err := n.checkAdvertised(addr, listenHost); err != nil {
		return Membership{}, err
	}
	dataPath := addr
	if dataPathAddr != "" {
		if dataPath, _, err = parseAdvertiseAddr(dataPathAddr, port, n.addrs); err != nil {
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

// parseListenAddr parses an IP address or an interface, with or without port. Empty means every
// address.
func (n *Node) parseListenAddr(given string) (host string, port uint16, err error) {
	host, port, err = splitPort(given, DefaultPort)
	if err != nil {
		return "", 0, invalid("listen address %q: %v", given, err)
	}
	if _, err := netip.ParseAddr(host); host == "" || err == nil {
		return host, port, nil
	}
	return parseAdvertiseAddr(given, DefaultPort, n.addrs)
}

// Init implements the Daemon service: it creates a cluster with this node as its first manager. It
// returns when the manager is a voter and the node's session is accepted.
func (n *Node) Init(ctx context.Context, req *swarmv1.InitRequest) (*swarmv1.InitResponse, error) {
	switch {
	case req.ForceNewCluster:
		return nil, errdefs.ErrNotImplemented.WithMessage("this build cannot make a new cluster from the state of an old one")
	case req.Spec.GetEncryptionConfig().GetAutoLockManagers():
		return nil, errdefs.ErrNotImplemented.WithMessage("this build cannot lock managers: leave autolock off")
	}
	if err := n.beginJoin(); err != nil {
		return nil, err
	}
	defer n.operation.Unlock()
	state, err := n.resolveAddresses(req.AdvertiseAddr, req.ListenAddr, req.DataPathAddr, req.GossipPort)
	if err != nil {
		return nil, err
	}
	ln, err := listen(state)
	if err != nil {
		return nil, err
	}
	state.NodeID, state.ClusterID, state.Manager = ident.NewID(), ident.NewID(), true
	state.DataPathPort = uint16(req.Spec.GetNetwork().GetDataPathPort()) // Bootstrap refuses a number that is not a port.
	state.Managers = []Peer{{NodeID: state.NodeID, Addr: state.Addr, Port: state.Port}}
	key, csr, err := newKey()
	if err != nil {
		_ = ln.Close()
		return nil, err
	}
	bootstrapped, err := n.deps.Bootstrap(BootstrapRequest{
		NodeID: state.NodeID, ClusterID: state.ClusterID, CSR: csr, Membership: state, Init: req,
		Hostname: n.cfg.Hostname, MachineID: n.cfg.MachineID,
	})
	if err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("create the cluster: %w", err)
	}
	state.GossipKeys = bootstrapped.GossipKeys
	cred, bundle, err := n.saveMembership(&state, bootstrapped.Certificate, bootstrapped.Bundle, key)
	if err != nil {
		_ = ln.Close()
		return nil, n.forgetFailed(err)
	}
	m, err := n.newMember(state, cred, bundle, ln, bootstrapped.Rows)
	if err != nil {
		return nil, n.forgetFailed(err)
	}
	if err := n.start(ctx, m); err != nil {
		return nil, err
	}
	return &swarmv1.InitResponse{
		NodeId: state.NodeID, ClusterId: state.ClusterID, WorkerToken: bootstrapped.WorkerToken,
		Addr: Peer{Addr: state.Addr, Port: state.Port}.HostPort(),
	}, nil
}

// start passes a member to Run, and waits until it takes part in the cluster.
func (n *Node) start(ctx context.Context, m *member) error {
	select {
	case n.next <- m:
	case <-ctx.Done():
		m.closeParts()
		return n.forgetFailed(ctx.Err())
	}
	select {
	case <-m.running:
	case <-ctx.Done():
		return ctx.Err()
	}
	if m.membership().Manager {
		if err := m.readyToManage(ctx); err != nil {
			return err
		}
	}
	if err := m.worker.Connected(ctx); err != nil {
		return fmt.Errorf("this node is a member, but no manager has accepted its session yet: %w", err)
	}
	return nil
}

func (m *member) readyToManage(ctx context.Context) error {
	for {
		manager, changed := m.currentManager()
		if manager != nil {
			if err := manager.Ready(ctx); err != nil {
				return fmt.Errorf("this node is a member, but not yet a voting manager: %w", err)
			}
			return nil
		}
		if err := m.managerRefusal(); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Leave implements the Daemon service: it ends the membership and deletes its files. On a manager
// it returns an error unless req.Force is set.
func (n *Node) Leave(ctx context.Context, req *swarmv1.LeaveRequest) (*swarmv1.LeaveResponse, error) {
	if !n.operation.TryLock() {
		return nil, errdefs.ErrUnavailable.WithMessage("another init, join or leave is under way on this host: wait until it ends")
	}
	defer n.operation.Unlock()
	if err := n.damage(); err != nil {
		if !req.Force {
			return nil, err
		}
		return &swarmv1.LeaveResponse{}, n.leaveDamaged(ctx)
	}
	m := n.current()
	if m == nil {
		return nil, failedPrecondition("this node is not part of a swarm")
	}
	select {
	case <-m.running: // the member from the disk may still be starting
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	manager, _ := m.currentManager()
	if err := m.managerRefusal(); err != nil && !req.Force {
		return nil, fmt.Errorf("%w; `swarm leave --force` deletes these files too and gives up the membership", err)
	}
	if manager != nil && !req.Force {
		status := manager.Status()
		if status.Managers <= 1 {
			return nil, failedPrecondition("you are attempting to leave the swarm on its last manager: this erases all its state; use `--force` to ignore this message")
		}
		return nil, failedPrecondition("you are attempting to leave the swarm on a node that is a manager (%d in all): demote it first with `swarm node demote %s`, or use `--force` to suppress this message", status.Managers, m.membership().NodeID)
	}
	// The managers must know that the node is down before Leave returns: else they would refuse
	// this host when it joins again, and would not remove the node.
	m.worker.Announce(ctx)
	if manager != nil && manager.Status().Managers > 1 {
		m.resignVote(ctx, manager)
	}
	m.leaveGossip(ctx)
	m.end(errLeft)
	select {
	case <-m.gone:
		return &swarmv1.LeaveResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// leaveDamaged leaves a cluster whose membership on disk is damaged.
func (n *Node) leaveDamaged(ctx context.Context) error {
	if err := n.deps.Clean(ctx); err != nil {
		n.deps.Log.Error("cannot remove the cluster's containers and networks from this host: remove them by hand", "err", err)
	}
	if err := n.disk.forget(); err != nil {
		return fmt.Errorf("delete the files of the cluster: %w", err)
	}
	n.setMember(nil, nil)
	return nil
}

// leaveTimeout limits each request of a leaving node to the other nodes.
const leaveTimeout = 3 * time.Second

// resignVote asks the other managers to remove this manager's vote, because the vote of a node that
// is gone counts against the majority. If they cannot be reached, it logs what to do.
func (m *member) resignVote(ctx context.Context, manager Manager) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	err := manager.Resign(ctx)
	poll := time.NewTicker(votePollInterval)
	defer poll.Stop()
	for err == nil && manager.Status().Voter {
		select {
		case <-poll.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		m.base.Log.Warn("the other managers have not removed this manager's vote: run `swarm node rm --force` for this node on one of them", "node", m.membership().NodeID, "err", err)
		return
	}
	m.base.Log.Info("this manager has given up its vote", "node", m.membership().NodeID)
}

// leaveGossip announces by gossip that this node leaves on purpose. A node that does not receive
// the message detects this node as failed later.
func (m *member) leaveGossip(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	if err := m.gossip.Leave(ctx); err != nil {
		m.base.Log.Warn("cannot announce that this node leaves: the others will detect it as failed", "err", err)
	}
}

// Depart announces to the cluster that this host shuts down, and stops the tasks of this node with
// their grace period. The managers replace these tasks at once. The node stays a member: the next
// Run connects it again. Call Depart while Run runs. It returns nil if the host is not a member.
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
	m.leaveGossip(ctx)
	return err
}

// forgetFailed deletes the files of a failed operation, and returns cause.
func (n *Node) forgetFailed(cause error) error {
	if err := n.disk.forget(); err != nil {
		n.deps.Log.Error("cannot delete the membership of a failed init or join: delete it by hand", "err", err)
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

// credentialOf parses an issued certificate.
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

// saveMembership stores the credential and then the membership, because the credential has no
// effect without the membership. First it removes what a crash while this host left another cluster
// may have left of its manager.
func (n *Node) saveMembership(state *Membership, certificate, bundlePEM []byte, key *ecdsa.PrivateKey) (pki.Credential, *pki.Bundle, error) {
	cred, bundle, err := credentialOf(certificate, bundlePEM, key)
	if err != nil {
		return cred, nil, fmt.Errorf("use the issued certificate: %w", err)
	}
	if err := n.disk.removeManager(); err != nil {
		return cred, nil, err
	}
	if err := n.disk.credential().Save(cred, bundle); err != nil {
		return cred, nil, err
	}
	return cred, bundle, n.disk.save(state)
}

// installCertificate stores a renewed certificate and uses it from now on.
func (m *member) installCertificate(certificate, bundlePEM []byte, key *ecdsa.PrivateKey) error {
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

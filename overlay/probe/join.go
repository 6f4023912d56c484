//go:build linux

package probe

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/peer"

	"swarm/internal/origin"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// joinAttemptTimeout bounds each test for a host that joins, and joinTimeout all of them. In a
	// healthy cluster they take a few round trips. A host that does not finish in time is refused.
	joinAttemptTimeout = 3 * time.Second
	joinTimeout        = 3 * joinAttemptTimeout
	// maxJoins is how many hosts a manager tests at the same time, and maxJoinsPerOrigin how many
	// with the same address. Others wait for up to joinSlotWait.
	maxJoins, maxJoinsPerOrigin = 8, 1
	joinSlotWait                = joinAttemptTimeout
)

// Manager describes a manager to a host that wants to join.
type Manager struct {
	Hostname string
	Addr     netip.Addr
	// Port is the manager's cluster port, GossipPort its gossip port.
	Port, GossipPort uint16
	// Data is the address at which the manager receives packets of overlay networks.
	Data netip.AddrPort
}

// JoinServer implements the Admission service, with which a manager and a host that wants to join
// test the ways between them. It is safe for concurrent use.
type JoinServer struct {
	swarmv1.UnimplementedAdmissionServer
	slots *slots
	// permit returns an error if the manager must not test addr for this caller.
	permit func(caller net.Addr, addr netip.Addr) error
	// admit describes this manager. It returns an error if the caller has not proved a join token.
	admit func(ctx context.Context) (Manager, error)
	// limit bounds a call.
	limit time.Duration
}

// NewJoinServer returns a JoinServer. admit describes this manager, and returns an error if the
// caller of the RPC has not proved a join token.
func NewJoinServer(admit func(ctx context.Context) (Manager, error)) *JoinServer {
	return &JoinServer{admit: admit, permit: permit, limit: joinTimeout, slots: newSlots(maxJoins, maxJoinsPerOrigin)}
}

// Joiner is a host that wants to join. Its cluster port must be open.
type Joiner struct {
	Addr netip.Addr
	Port uint16
	// DataAddr is the address at which the host receives packets of overlay networks. Bind is the
	// address on which the host's gossip will listen.
	DataAddr, Bind netip.Addr
}

// udpCheck tests the UDP ports of gossip and overlay networks between two hosts, in both
// directions. Element 0 of each field is for gossip, element 1 for overlay networks.
type udpCheck struct {
	receivers [2]*packetReceiver
	senders   [2]*packetSender
	ports     [2]uint16
	// received is whether a packet has arrived.
	received [2]bool
	stop     context.CancelFunc // ends the senders
	g        errgroup.Group     // the senders
}

// purposes returns the purposes of the two ports.
func purposes() [2]string { return [2]string{"gossip", "overlay networks"} }

// newUDPCheck begins to receive packets with the nonce of the other host. It does not send yet.
func newUDPCheck(ctx context.Context, gossip, data netip.AddrPort, theirs []byte) (*udpCheck, error) {
	c := &udpCheck{stop: func() {}, ports: [2]uint16{gossip.Port(), data.Port()}}
	for i, at := range [2]netip.AddrPort{gossip, data} {
		var err error
		if c.receivers[i], err = newReceiver(ctx, at.Addr(), at.Port(), theirs); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

// send sends packets with the nonce of this host until close. If there is no route to a port,
// nothing is sent and nothing arrives, which is the result of the test.
func (c *udpCheck) send(ctx context.Context, gossip, data netip.AddrPort, ours []byte) {
	ctx, c.stop = context.WithCancel(ctx)
	for i, to := range [2]netip.AddrPort{gossip, data} {
		s, err := newSender(to, ours)
		if err != nil {
			continue
		}
		c.senders[i] = s
		c.g.Go(func() error {
			s.send(ctx)
			return nil
		})
	}
}

// receive waits until packets have arrived at both ports, for up to joinAttemptTimeout.
func (c *udpCheck) receive(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, joinAttemptTimeout)
	defer cancel()
	var g errgroup.Group
	for i, r := range c.receivers {
		g.Go(func() error {
			c.received[i], _ = r.waitFor(ctx, false)
			return nil
		})
	}
	_ = g.Wait() // The functions return no error.
}

// ways returns the ways from the other host.
func (c *udpCheck) ways() (out []*swarmv1.TriedWay) {
	for i, purpose := range purposes() {
		w := &swarmv1.TriedWay{Network: "udp", Port: uint32(c.ports[i]), Purpose: purpose}
		if !c.received[i] {
			w.Error = "no packet came"
		}
		out = append(out, w)
	}
	return out
}

// close stops sending and closes the sockets.
func (c *udpCheck) close() (err error) {
	c.stop()
	_ = c.g.Wait() // The functions return no error.
	for i := range c.receivers {
		if c.receivers[i] != nil {
			err = errors.Join(err, c.receivers[i].Close())
		}
		if c.senders[i] != nil {
			err = errors.Join(err, c.senders[i].Close())
		}
	}
	return err
}

// connectAll tests the ways to the cluster port and to the TCP port of gossip at one address.
func connectAll(ctx context.Context, addr netip.Addr, cluster, gossip uint16) []*swarmv1.TriedWay {
	ctx, cancel := context.WithTimeout(ctx, joinAttemptTimeout)
	defer cancel()
	ways := []*swarmv1.TriedWay{
		{Network: "tcp", Port: uint32(cluster), Purpose: "the cluster"},
		{Network: "tcp", Port: uint32(gossip), Purpose: "gossip"},
	}
	var g errgroup.Group
	for _, w := range ways {
		g.Go(func() error {
			switch err := connect(ctx, netip.AddrPortFrom(addr, uint16(w.Port))); {
			case err == nil:
			case ctx.Err() != nil || errors.Is(err, syscall.ETIMEDOUT):
				w.Error = "no answer"
			case errors.Is(err, syscall.ECONNREFUSED):
				w.Error = "refused"
			default:
				w.Error = err.Error()
			}
			return nil
		})
	}
	_ = g.Wait() // The functions return no error: the ways have it.
	return ways
}

func newNonce() []byte {
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // crypto/rand.Read never fails.
	return nonce
}

// permit returns an error for every address but the one from which the caller's connection comes.
// With other addresses, everybody who has a join token could use a manager to scan ports and to
// send packets to other hosts.
func permit(caller net.Addr, addr netip.Addr) error {
	at, err := netip.ParseAddrPort(caller.String())
	seen := at.Addr().Unmap().WithZone("")
	switch {
	case err != nil || !addr.IsGlobalUnicast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s cannot be the address of a node, so the manager does not test it", addr))
	case seen.Is4() != addr.Is4():
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("the manager sees this host at %s and does not test addresses of the other IP version", seen))
	case seen != addr:
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
			"the manager sees this host at %s and does not test the connection to %s: if that is not the address by which other nodes reach this host, set the right one with --advertise-addr; "+
				"to join without the test, use --skip-network-check", seen, addr))
	}
	return nil
}

// Probe implements the Admission service. It sends packets only to the address from which the
// caller connects, and only if admit accepts the caller.
func (s *JoinServer) Probe(stream swarmv1.Admission_ProbeServer) error {
	ctx, cancel := context.WithTimeout(stream.Context(), s.limit)
	defer cancel()
	first, err := receiveRequest(ctx, stream)
	if err != nil {
		return err
	}
	manager, err := s.admit(ctx)
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddr(first.Addr)
	if err != nil || len(first.Nonce) != nonceSize || first.Port == 0 || first.Port > 65535 {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid probe of address %q, port %d, with a nonce of %d bytes", first.Addr, first.Port, len(first.Nonce)))
	}
	caller, ok := peer.FromContext(ctx)
	if !ok {
		return errdefs.ErrInternal.WithMessage("the call has no peer address")
	}
	if err := s.permit(caller.Addr, addr.Unmap()); err != nil {
		return err
	}
	release, err := s.slots.take(ctx, origin.Of(caller.Addr).String(), joinSlotWait)
	if err != nil {
		return err
	}
	defer release()
	gossip, data := netip.AddrPortFrom(addr, manager.GossipPort), netip.AddrPortFrom(addr, manager.Data.Port())
	udp, err := newUDPCheck(ctx, gossip, data, first.Nonce)
	if err != nil {
		return err
	}
	defer udp.close()
	nonce := newNonce()
	if err := stream.Send(&swarmv1.AdmissionProbe{
		Hostname: manager.Hostname, Nonce: nonce, Addr: manager.Addr.String(), Port: uint32(manager.Port), GossipPort: uint32(manager.GossipPort),
		DataPathAddr: manager.Data.Addr().String(), DataPathPort: uint32(manager.Data.Port()),
	}); err != nil {
		return err
	}
	if _, err := receiveRequest(ctx, stream); err != nil { // The caller now receives packets.
		return err
	}
	udp.send(ctx, gossip, data, nonce)
	var g errgroup.Group
	g.Go(func() error {
		udp.receive(ctx)
		return nil
	})
	in := connectAll(ctx, addr, uint16(first.Port), manager.GossipPort)
	_ = g.Wait() // The function returns no error.
	if err := stream.Send(&swarmv1.AdmissionProbe{Out: udp.ways(), In: in}); err != nil {
		return err
	}
	_, _ = receiveRequest(ctx, stream) // This side sends packets until the caller ends the stream.
	return nil
}

// receiveRequest receives one request, or returns ErrUnavailable when ctx ends. It reads in a
// goroutine, which continues after an error. So the caller must then return from the handler: this
// ends the stream, and the goroutine with it.
func receiveRequest(ctx context.Context, stream swarmv1.Admission_ProbeServer) (*swarmv1.AdmissionRequest, error) {
	type received struct {
		request *swarmv1.AdmissionRequest
		err     error
	}
	results := make(chan received, 1)
	go func() {
		request, err := stream.Recv()
		results <- received{request, err}
	}()
	select {
	case r := <-results:
		return r.request, r.err
	case <-ctx.Done():
		return nil, errdefs.ErrUnavailable.WithMessage("the host that wants to join has sent no request in time")
	}
}

// Join tests the ways between this host and the manager at the other end of the connection, which
// must prove a join token (transport.Proving). It binds the gossip ports of this host for the time
// of the test, and returns ErrFailedPrecondition if they are in use.
func Join(ctx context.Context, c swarmv1.AdmissionClient, j Joiner) (*swarmv1.SurveyedNode, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	stream, err := c.Probe(ctx)
	if err != nil {
		return nil, err
	}
	nonce := newNonce()
	// An error of Send is returned by Recv.
	_ = stream.Send(&swarmv1.AdmissionRequest{Nonce: nonce, Addr: j.Addr.String(), Port: uint32(j.Port), DataPathAddr: j.DataAddr.String()})
	manager, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	addr, err := netip.ParseAddr(manager.Addr)
	if err != nil {
		return nil, fmt.Errorf("parse the address of the manager: %w", err)
	}
	dataAddr, err := netip.ParseAddr(manager.DataPathAddr)
	if err != nil {
		dataAddr = addr
	}
	release, err := bindGossip(ctx, j.Bind, uint16(manager.GossipPort))
	if err != nil {
		return nil, err
	}
	defer release()
	gossip, data := netip.AddrPortFrom(addr, uint16(manager.GossipPort)), netip.AddrPortFrom(dataAddr, uint16(manager.DataPathPort))
	udp, err := newUDPCheck(ctx, gossip, data, manager.Nonce)
	if err != nil {
		return nil, err
	}
	defer udp.close()
	udp.send(ctx, gossip, data, nonce)
	_ = stream.Send(&swarmv1.AdmissionRequest{})
	out := &swarmv1.SurveyedNode{Hostname: manager.Hostname, Addr: manager.Addr}
	var g errgroup.Group
	g.Go(func() error {
		udp.receive(ctx)
		return nil
	})
	g.Go(func() error {
		out.Out = connectAll(ctx, addr, uint16(manager.Port), uint16(manager.GossipPort))
		return nil
	})
	verdict, err := stream.Recv()
	_ = g.Wait() // The functions return no error.
	if err != nil {
		return nil, err
	}
	out.Out, out.In = append(out.Out, verdict.Out...), append(verdict.In, udp.ways()...)
	if j.DataAddr != j.Addr { // The manager sends no packet to DataAddr, because that may be the address of another host.
		out.In = slices.DeleteFunc(out.In, func(w *swarmv1.TriedWay) bool { return w.Network == "udp" && w.Port == manager.DataPathPort })
	}
	_ = stream.CloseSend()
	_, _ = stream.Recv() // Wait until the manager has ended.
	return out, nil
}

// bindGossip binds the gossip ports, so that the manager can connect to them. They must be free.
func bindGossip(ctx context.Context, bind netip.Addr, port uint16) (release func(), err error) {
	var config net.ListenConfig
	at := net.JoinHostPort(bind.String(), strconv.Itoa(int(port)))
	tcp, err := config.Listen(ctx, "tcp", at)
	if err != nil {
		return nil, bindError("tcp", port, err)
	}
	udp, err := config.ListenPacket(ctx, "udp", at)
	if err != nil {
		return nil, errors.Join(bindError("udp", port, err), tcp.Close())
	}
	return func() { _, _ = tcp.Close(), udp.Close() }, nil
}

// bindError explains why a gossip port cannot be bound.
func bindError(network string, port uint16, err error) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("bind port %d/%s of this host for the network test: %w", port, network, err)
	}
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
		"port %d/%s (gossip) of this cluster is in use on this host: stop the program that uses it (ss -lnp 'sport = :%d'); the port can only be changed when a cluster is created, with `swarm init --gossip-port`", port, network, port))
}

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
	// joinPatience bounds each attempt of a join's check, and joinLimit all of it: in a healthy cluster it takes a few round
	// trips, and whoever has to wait for the bound is refused.
	joinPatience = 3 * time.Second
	joinLimit    = 3 * joinPatience
	// joinsAtOnce is how many hosts a manager tries at a time, and joinsOfOrigin how many with one address. Others wait for
	// joinTurn.
	joinsAtOnce, joinsOfOrigin = 8, 1
	joinTurn                   = joinPatience
)

// Gate is a manager, as hosts that join are told of it.
type Gate struct {
	Hostname string
	Addr     netip.Addr
	// Port is of the cluster, GossipPort of gossip.
	Port, GossipPort uint16
	// Data takes packets of overlay networks.
	Data netip.AddrPort
}

// Gatekeeper implements the Admission service.
type Gatekeeper struct {
	swarmv1.UnimplementedAdmissionServer
	slots *slots
	// permit says whether a caller may have an address tried.
	permit func(caller net.Addr, addr netip.Addr) error
	admit  func(ctx context.Context) (Gate, error)
	// limit bounds a call.
	limit time.Duration
}

// NewGatekeeper makes a Gatekeeper; admit refuses the caller of an RPC who has not proved a join
// token.
func NewGatekeeper(admit func(ctx context.Context) (Gate, error)) *Gatekeeper {
	return &Gatekeeper{admit: admit, permit: permit, limit: joinLimit, slots: newSlots(joinsAtOnce, joinsOfOrigin)}
}

// Joiner is a host that wants to join. Its cluster port is open.
type Joiner struct {
	Addr netip.Addr
	Port uint16
	// DataAddr takes packets of overlay networks, Bind is what gossip will listen on.
	DataAddr, Bind netip.Addr
}

// line is the UDP packets of a check between two hosts, on the ports of gossip and of overlay networks.
type line struct {
	ears   [2]*ear
	mouths [2]*mouth
	ports  [2]uint16
	// heard is what has come.
	heard [2]bool
	hush  context.CancelFunc
	g     errgroup.Group
}

// purposes of a line's ports.
func purposes() [2]string { return [2]string{"gossip", "overlay networks"} }

// newLine hears packets with a nonce; it says nothing yet.
func newLine(ctx context.Context, gossip, data netip.AddrPort, theirs []byte) (*line, error) {
	l := &line{hush: func() {}, ports: [2]uint16{gossip.Port(), data.Port()}}
	for i, at := range [2]netip.AddrPort{gossip, data} {
		var err error
		if l.ears[i], err = listen(ctx, at.Addr(), at.Port(), theirs); err != nil {
			return nil, errors.Join(err, l.close())
		}
	}
	return l, nil
}

// speak sends packets with a nonce until close. Where no route leads nothing is heard, which is the verdict.
func (l *line) speak(ctx context.Context, gossip, data netip.AddrPort, ours []byte) {
	ctx, l.hush = context.WithCancel(ctx)
	for i, to := range [2]netip.AddrPort{gossip, data} {
		m, err := newMouth(to, ours)
		if err != nil {
			continue
		}
		l.mouths[i] = m
		l.g.Go(func() error {
			m.speak(ctx)
			return nil
		})
	}
}

// hear waits for both.
func (l *line) hear(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	var g errgroup.Group
	for i, e := range l.ears {
		g.Go(func() error {
			l.heard[i], _ = e.await(ctx, false)
			return nil
		})
	}
	_ = g.Wait() // what did not come is the verdict
}

// ways words what was heard.
func (l *line) ways() (out []*swarmv1.TriedWay) {
	for i, purpose := range purposes() {
		w := &swarmv1.TriedWay{Network: "udp", Port: uint32(l.ports[i]), Purpose: purpose}
		if !l.heard[i] {
			w.Error = "no packet came"
		}
		out = append(out, w)
	}
	return out
}

func (l *line) close() (err error) {
	l.hush()
	_ = l.g.Wait() // speak returns nothing
	for i := range l.ears {
		if l.ears[i] != nil {
			err = errors.Join(err, l.ears[i].Close())
		}
		if l.mouths[i] != nil {
			err = errors.Join(err, l.mouths[i].Close())
		}
	}
	return err
}

// connectAll tries TCP ports of one address.
func connectAll(ctx context.Context, addr netip.Addr, cluster, gossip uint16) []*swarmv1.TriedWay {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
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
	_ = g.Wait() // what went wrong stands in the way
	return ways
}

func newNonce() []byte {
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // never fails (crypto/rand)
	return nonce
}

// permit refuses every address but the one that the caller's connection comes from: a manager that tried others would scan
// ports, and send packets to third hosts, for everybody who has a join token.
func permit(caller net.Addr, addr netip.Addr) error {
	at, err := netip.ParseAddrPort(caller.String())
	seen := at.Addr().Unmap().WithZone("")
	switch {
	case err != nil || !addr.IsGlobalUnicast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s is no address of a node: ways to it are not tried", addr))
	case seen.Is4() != addr.Is4():
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("this manager sees the host at %s, and tries ways to no other address", seen))
	case seen != addr:
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
			"the manager sees this host at %s and tries no way to %s: if that is not the address by which other nodes reach this host, name it with --advertise-addr; "+
				"to join all the same: --skip-network-check", seen, addr))
	}
	return nil
}

// Probe implements the Admission service. Packets go to the address that the host calls from, when its token is right, and
// nowhere else.
func (k *Gatekeeper) Probe(stream swarmv1.Admission_ProbeServer) error {
	ctx, cancel := context.WithTimeout(stream.Context(), k.limit)
	defer cancel()
	first, err := next(ctx, stream)
	if err != nil {
		return err
	}
	gate, err := k.admit(ctx)
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddr(first.Addr)
	if err != nil || len(first.Nonce) != nonceSize || first.Port == 0 || first.Port > 65535 {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("a probe of %q, port %d, with a nonce of %d bytes", first.Addr, first.Port, len(first.Nonce)))
	}
	caller, ok := peer.FromContext(ctx)
	if !ok {
		return errdefs.ErrInternal.WithMessage("a call without a caller")
	}
	if err := k.permit(caller.Addr, addr.Unmap()); err != nil {
		return err
	}
	release, err := k.slots.take(ctx, origin.Of(caller.Addr).String(), joinTurn)
	if err != nil {
		return err
	}
	defer release()
	gossip, data := netip.AddrPortFrom(addr, gate.GossipPort), netip.AddrPortFrom(addr, gate.Data.Port())
	line, err := newLine(ctx, gossip, data, first.Nonce)
	if err != nil {
		return err
	}
	defer line.close()
	nonce := newNonce()
	if err := stream.Send(&swarmv1.AdmissionProbe{
		Hostname: gate.Hostname, Nonce: nonce, Addr: gate.Addr.String(), Port: uint32(gate.Port), GossipPort: uint32(gate.GossipPort),
		DataPathAddr: gate.Data.Addr().String(), DataPathPort: uint32(gate.Data.Port()),
	}); err != nil {
		return err
	}
	if _, err := next(ctx, stream); err != nil { // now it listens
		return err
	}
	line.speak(ctx, gossip, data, nonce)
	var g errgroup.Group
	g.Go(func() error {
		line.hear(ctx)
		return nil
	})
	in := connectAll(ctx, addr, uint16(first.Port), gate.GossipPort)
	_ = g.Wait() // what it heard stands in the line
	if err := stream.Send(&swarmv1.AdmissionProbe{Out: line.ways(), In: in}); err != nil {
		return err
	}
	_, _ = next(ctx, stream) // its end: until then this side speaks
	return nil
}

// next receives from a stream until ctx ends. After an error the handler returns, which ends the
// stream and so the receiving.
func next(ctx context.Context, stream swarmv1.Admission_ProbeServer) (*swarmv1.AdmissionRequest, error) {
	type received struct {
		request *swarmv1.AdmissionRequest
		err     error
	}
	came := make(chan received, 1)
	go func() {
		request, err := stream.Recv()
		came <- received{request, err}
	}()
	select {
	case r := <-came:
		return r.request, r.err
	case <-ctx.Done():
		return nil, errdefs.ErrUnavailable.WithMessage("the host that wants to join has sent nothing in time")
	}
}

// Join tries the ways between this host and the manager at the other end of the connection, which
// proves a join token (transport.Proving).
func Join(ctx context.Context, c swarmv1.AdmissionClient, j Joiner) (*swarmv1.SurveyedNode, error) {
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	stream, err := c.Probe(ctx)
	if err != nil {
		return nil, err
	}
	nonce := newNonce()
	// What is wrong with sending is told by receiving.
	_ = stream.Send(&swarmv1.AdmissionRequest{Nonce: nonce, Addr: j.Addr.String(), Port: uint32(j.Port), DataPathAddr: j.DataAddr.String()})
	gate, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	addr, err := netip.ParseAddr(gate.Addr)
	if err != nil {
		return nil, fmt.Errorf("the manager's address: %w", err)
	}
	dataAddr, err := netip.ParseAddr(gate.DataPathAddr)
	if err != nil {
		dataAddr = addr
	}
	free, err := occupy(ctx, j.Bind, uint16(gate.GossipPort))
	if err != nil {
		return nil, err
	}
	defer free()
	gossip, data := netip.AddrPortFrom(addr, uint16(gate.GossipPort)), netip.AddrPortFrom(dataAddr, uint16(gate.DataPathPort))
	line, err := newLine(ctx, gossip, data, gate.Nonce)
	if err != nil {
		return nil, err
	}
	defer line.close()
	line.speak(ctx, gossip, data, nonce)
	_ = stream.Send(&swarmv1.AdmissionRequest{})
	out := &swarmv1.SurveyedNode{Hostname: gate.Hostname, Addr: gate.Addr}
	var g errgroup.Group
	g.Go(func() error {
		line.hear(ctx)
		return nil
	})
	g.Go(func() error {
		out.Out = connectAll(ctx, addr, uint16(gate.Port), uint16(gate.GossipPort))
		return nil
	})
	verdict, err := stream.Recv()
	_ = g.Wait() // what they found stands where they write
	if err != nil {
		return nil, err
	}
	out.Out, out.In = append(out.Out, verdict.Out...), append(verdict.In, line.ways()...)
	if j.DataAddr != j.Addr { // the manager sends nothing there: it cannot know whose address that is
		out.In = slices.DeleteFunc(out.In, func(w *swarmv1.TriedWay) bool { return w.Network == "udp" && w.Port == gate.DataPathPort })
	}
	_ = stream.CloseSend()
	_, _ = stream.Recv() // the manager has ended
	return out, nil
}

// occupy takes the ports of gossip, which must be free, so that the manager finds somebody there.
func occupy(ctx context.Context, bind netip.Addr, port uint16) (free func(), err error) {
	var config net.ListenConfig
	at := net.JoinHostPort(bind.String(), strconv.Itoa(int(port)))
	tcp, err := config.Listen(ctx, "tcp", at)
	if err != nil {
		return nil, occupied("tcp", port, err)
	}
	udp, err := config.ListenPacket(ctx, "udp", at)
	if err != nil {
		return nil, errors.Join(occupied("udp", port, err), tcp.Close())
	}
	return func() { _, _ = tcp.Close(), udp.Close() }, nil
}

func occupied(network string, port uint16, err error) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("try port %d/%s of this host: %w", port, network, err)
	}
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
		"port %d/%s (gossip), which this cluster uses, is in use on this host: end what uses it (ss -lnp 'sport = :%d'); another port can only be chosen when a cluster is made, with `swarm init --gossip-port`", port, network, port))
}

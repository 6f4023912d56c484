//go:build linux

// Package probe tests the network between this node and the others with real packets. A way is one
// port with its protocol, in one direction between two nodes. The package tests
//   - the cluster port and gossip over TCP with a connection
//   - gossip over UDP with a gossip packet (gossip.Ping)
//   - overlay networks with VXLAN packets: small ones, and large ones that fill the MTU
//
// Both nodes test their ways to the other node. A test in one direction is not enough, because a
// firewall may let answers through and block other packets in the same direction.
//
// The package reports which ways work and does not explain why. It sends packets only to members of
// the cluster, and to a host that proves a join token. Callers: adapter/dataplane makes a Prober
// and a JoinServer, and calls Join on a host that joins; `swarm doctor` calls the Prober.
// Goroutines: those of a call, which waits for them.
package probe

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/bounds"
	"swarm/internal/pause"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// DefaultDataPort is the UDP port of overlay networks if `swarm init` has set no other.
	DefaultDataPort = 4789
	// attemptTimeout bounds the test of one way. nodeTimeout bounds the whole probe of a node, in
	// which both nodes make their tests.
	attemptTimeout = 2 * time.Second
	nodeTimeout    = 3 * attemptTimeout
	// minSendTime is how long the answering node sends packets at least. arrivalGrace is how long
	// its last packets may take to arrive.
	minSendTime  = 3 * sendInterval
	arrivalGrace = 300 * time.Millisecond
	// maxConcurrent is how many nodes are probed at the same time.
	maxConcurrent = 16
	// maxAnswers is how many probes of other nodes this node answers at the same time, and
	// maxAnswersPerNode how many of one node. Further probes wait for up to attemptTimeout.
	maxAnswers, maxAnswersPerNode = 16, 2
)

// Node is another member of the cluster.
type Node struct {
	ID   string
	Addr netip.Addr
	// Port is the node's cluster port, GossipPort its gossip port.
	Port, GossipPort uint16
	// Data is the address at which the node receives packets of overlay networks. If Data is zero,
	// the packets are sent to Addr at the port of the request.
	Data netip.AddrPort
}

// data returns where to send packets of overlay networks. port is used if n.Data is zero.
func (n Node) data(port uint16) netip.AddrPort {
	if n.Data.IsValid() {
		return n.Data
	}
	return netip.AddrPortFrom(n.Addr, port)
}

// Config is the configuration of a Prober.
type Config struct {
	Hostname string
	// Data is the address at which this node receives packets of overlay networks.
	Data netip.AddrPort
}

// Deps are the functions that a Prober calls.
type Deps struct {
	// Others returns all other members, also those that do not answer.
	Others func() []Node
	// Dial returns a connection to the cluster port of a member.
	Dial func(nodeID string) (grpc.ClientConnInterface, error)
	// Ping sends a gossip packet to a member and returns when the answer has come, or an error when
	// ctx ends.
	Ping func(ctx context.Context, nodeID string) error
	// Self describes the networks on this node. It may be nil.
	Self func(ctx context.Context) (*swarmv1.SurveyedSelf, error)
}

// Prober implements the Doctor service. It is safe for concurrent use.
type Prober struct {
	swarmv1.UnimplementedDoctorServer
	cfg   Config
	deps  Deps
	slots *slots
}

// New returns a Prober.
func New(cfg Config, deps Deps) *Prober {
	return &Prober{cfg: cfg, deps: deps, slots: newSlots(maxAnswers, maxAnswersPerNode)}
}

// Survey implements the Doctor service: it probes all other members. If a node cannot be probed,
// its entry has the error. Survey itself returns ErrInvalidArgument for a port that does not exist,
// and the error of ctx.
func (p *Prober) Survey(ctx context.Context, r *swarmv1.SurveyRequest) (*swarmv1.SurveyResponse, error) {
	port, err := dataPort(cmp.Or(r.DataPathPort, uint32(p.cfg.Data.Port())))
	if err != nil {
		return nil, err
	}
	others := p.deps.Others()
	nodes := make([]*swarmv1.SurveyedNode, len(others))
	var g errgroup.Group
	g.SetLimit(maxConcurrent)
	for i, n := range others {
		g.Go(func() error {
			nodes[i] = p.probeNode(ctx, n, port)
			return nil
		})
	}
	var self *swarmv1.SurveyedSelf
	if p.deps.Self != nil {
		if self, err = p.deps.Self(ctx); err != nil {
			self = &swarmv1.SurveyedSelf{Error: err.Error()}
		}
	}
	_ = g.Wait() // The functions return no error: the entry of a node has it.
	return &swarmv1.SurveyResponse{Nodes: nodes, Self: self}, ctx.Err()
}

// dataPort returns the port to test for a port of a request.
func dataPort(n uint32) (uint16, error) {
	switch {
	case n == 0:
		return DefaultDataPort, nil
	case n > 65535:
		return 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("data path port %d is not a port: use 1 to 65535", n))
	default:
		return uint16(n), nil
	}
}

// probeNode tests the ways to and from one node. The node makes its tests at the same time.
func (p *Prober) probeNode(ctx context.Context, n Node, port uint16) *swarmv1.SurveyedNode {
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	out := &swarmv1.SurveyedNode{NodeId: n.ID, Addr: n.Addr.String()}
	var g errgroup.Group
	g.Go(func() error {
		out.Out = p.tryPorts(ctx, n)
		return nil
	})
	in, overlay, err := p.exchange(ctx, n, port, out)
	_ = g.Wait() // The function returns no error: the ways have it.
	out.In, out.Out = in, append(out.Out, overlay...)
	if err != nil {
		out.Error = err.Error()
	}
	return out
}

// exchange sends packets to the node, calls its Probe, and receives its packets. It returns the
// ways from the node, and the ways of overlay networks to it. It writes host name, clock offset and
// round-trip time to result.
func (p *Prober) exchange(ctx context.Context, n Node, port uint16, result *swarmv1.SurveyedNode) (in, out []*swarmv1.TriedWay, err error) {
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // crypto/rand.Read never fails.
	receiver, err := newReceiver(ctx, n.data(port).Addr(), port, nonce)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, receiver.Close()) }()
	sender, err := newSender(n.data(port), nonce)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, sender.Close()) }()
	conn, err := p.deps.Dial(n.ID)
	if err != nil {
		return nil, nil, err
	}

	sending, stopSending := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error {
		sender.send(sending)
		return nil
	})
	defer func() {
		stopSending()
		_ = g.Wait() // The function returns no error.
	}()
	sent := time.Now()
	answer, err := swarmv1.NewDoctorClient(conn).Probe(ctx, &swarmv1.ProbeRequest{
		Nonce: nonce, DataPathPort: uint32(port), Large: uint32(sender.packet),
	})
	back := time.Now()
	if err != nil {
		return nil, nil, err
	}
	answer = bounds.Probe(answer) // The answer of a peer is not trusted.
	result.Hostname = answer.Hostname
	offset, trip := clockOffset(sent, answer.ReceivedAt.AsTime(), answer.AnsweredAt.AsTime(), back)
	result.ClockOffset, result.RoundTrip = durationpb.New(offset), durationpb.New(trip)
	late, stop := context.WithTimeout(ctx, arrivalGrace)
	defer stop()
	small, large := receiver.wait(late)
	in = append(answer.Tried, overlayWays(port, small, large, answer.Large)...)
	return in, overlayWays(port, answer.SmallCame, answer.LargeCame, uint32(sender.packet)), nil
}

// clockOffset returns how far the clock of another node is ahead, and the round-trip time, computed
// as in NTP. This node read the times sent and back, the other node received and answered.
func clockOffset(sent, received, answered, back time.Time) (offset, roundTrip time.Duration) {
	// sent and back have a monotonic clock reading, received and answered do not.
	roundTrip = back.Sub(sent) - answered.Sub(received)
	there, here := received.Sub(sent.Round(0)), answered.Sub(back.Round(0))
	return (there + here) / 2, max(roundTrip, 0)
}

// overlayWays returns the ways of overlay networks for the packets that arrived. It reports on the
// large packet only if the small one has arrived. If the small one is lost, the loss of the large
// one has no further meaning.
func overlayWays(port uint16, small, large bool, size uint32) []*swarmv1.TriedWay {
	way := &swarmv1.TriedWay{Network: "udp", Port: uint32(port), Purpose: "overlay networks"}
	if !small {
		way.Error = "no packet came"
		return []*swarmv1.TriedWay{way}
	}
	big := &swarmv1.TriedWay{Network: way.Network, Port: way.Port, Purpose: way.Purpose, Bytes: size}
	if !large {
		big.Error = "no packet of that size came"
	}
	return []*swarmv1.TriedWay{way, big}
}

// tryPorts tests the ways to the cluster port and the gossip ports of a node.
func (p *Prober) tryPorts(ctx context.Context, n Node) []*swarmv1.TriedWay {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	ways := []*swarmv1.TriedWay{
		{Network: "tcp", Port: uint32(n.Port), Purpose: "the cluster"},
		{Network: "tcp", Port: uint32(n.GossipPort), Purpose: "gossip"},
		{Network: "udp", Port: uint32(n.GossipPort), Purpose: "gossip"},
	}
	var g errgroup.Group
	for _, w := range ways {
		g.Go(func() error {
			var err error
			if w.Network == "udp" {
				err = p.deps.Ping(ctx, n.ID)
			} else {
				err = connect(ctx, netip.AddrPortFrom(n.Addr, uint16(w.Port)))
			}
			if err != nil {
				w.Error = err.Error()
			}
			return nil
		})
	}
	_ = g.Wait() // The functions return no error: the ways have it.
	return ways
}

// connect opens and closes a TCP connection.
func connect(ctx context.Context, to netip.AddrPort) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(to.Addr().String(), strconv.Itoa(int(to.Port()))))
	if err != nil {
		return err
	}
	return conn.Close()
}

// Probe implements the Doctor service. It tests the ways to the caller, which must be a member,
// while the caller tests its own. It sends packets for minSendTime or longer, so that the caller
// receives some.
func (p *Prober) Probe(ctx context.Context, r *swarmv1.ProbeRequest) (*swarmv1.ProbeResponse, error) {
	received := time.Now()
	port, err := dataPort(r.DataPathPort)
	if err != nil {
		return nil, err
	}
	if len(r.Nonce) != nonceSize {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the probe has a nonce of %d bytes, want %d", len(r.Nonce), nonceSize))
	}
	caller, err := p.caller(ctx)
	if err != nil {
		return nil, err
	}
	release, err := p.slots.take(ctx, caller.ID, attemptTimeout)
	if err != nil {
		return nil, err
	}
	defer release()
	receiver, err := newReceiver(ctx, caller.data(port).Addr(), port, r.Nonce)
	if err != nil {
		return nil, err
	}
	defer receiver.Close()
	sender, err := newSender(caller.data(port), r.Nonce)
	if err != nil {
		return nil, err
	}
	defer sender.Close()
	answer := &swarmv1.ProbeResponse{
		Hostname: p.cfg.Hostname, ReceivedAt: timestamppb.New(received), Large: uint32(sender.packet),
	}
	sending, stopSending := context.WithCancel(ctx)
	defer stopSending()
	var g, senders errgroup.Group
	senders.Go(func() error {
		sender.send(sending)
		return nil
	})
	g.Go(func() error {
		waiting, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		answer.SmallCame, answer.LargeCame = receiver.wait(waiting)
		return nil
	})
	g.Go(func() error {
		answer.Tried = p.tryPorts(ctx, caller)
		return nil
	})
	g.Go(func() error {
		_ = pause.For(ctx, minSendTime)
		return nil
	})
	_ = g.Wait() // The functions return no error: the answer has it.
	stopSending()
	_ = senders.Wait() // The function returns no error.
	answer.AnsweredAt = timestamppb.New(received.Add(time.Since(received)))
	return answer, ctx.Err()
}

// caller returns the member that makes the call. Probe sends packets only to the address that the
// managers list for this member.
func (p *Prober) caller(ctx context.Context) (Node, error) {
	id, err := transport.FromContext(ctx)
	if err != nil {
		return Node{}, err
	}
	others := p.deps.Others()
	i := slices.IndexFunc(others, func(n Node) bool { return n.ID == id.NodeID() })
	if i < 0 {
		return Node{}, errdefs.ErrPermissionDenied.WithMessage(id.String() + " is not on this node's list of members: only members of the cluster may probe it")
	}
	return others[i], nil
}

//go:build linux

// Package probe tries the ways between this node and the others with real packets: the cluster port and gossip by
// connecting, gossip's UDP by its own ping, and the port of overlay networks by VXLAN packets, small ones and one of the
// size of the MTU. Each way is tried from both ends, because a firewall that lets answers through hides what it blocks.
//
// It owns the protocol of a probe and judges nothing. It refuses to send to anybody but members, by gossip's list. Callers:
// adapter/dataplane makes a Prober; `swarm doctor` asks it. Goroutines: those of a call, which waits for them.
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
	// DefaultDataPort is the UDP port of overlay networks, unless `swarm init` chose another.
	DefaultDataPort = 4789
	// patience bounds each attempt; askPatience a whole probe, with both ends' attempts in it.
	patience    = 2 * time.Second
	askPatience = 3 * patience
	// speech is how long the answerer sends at least, and grace how long its last packets may be on the way.
	speech = 3 * sendInterval
	grace  = 300 * time.Millisecond
	// atOnce is how many nodes are probed at a time.
	atOnce = 16
	// answersAtOnce is how many probes of others this node answers at a time, and answersOfNode how many of one node. Others
	// wait for patience.
	answersAtOnce, answersOfNode = 16, 2
)

// Node is another member.
type Node struct {
	ID   string
	Addr netip.Addr
	// Port is of the cluster, GossipPort of gossip.
	Port, GossipPort uint16
	// Data takes packets of overlay networks. Zero: not known, then it is Addr and the port that is asked for.
	Data netip.AddrPort
}

// data is where to send packets of overlay networks.
func (n Node) data(port uint16) netip.AddrPort {
	if n.Data.IsValid() {
		return n.Data
	}
	return netip.AddrPortFrom(n.Addr, port)
}

// Config is data only.
type Config struct {
	Hostname string
	// Data is where this node takes packets of overlay networks.
	Data netip.AddrPort
}

// Deps are live objects.
type Deps struct {
	// Others lists the other members, those that do not answer among them.
	Others func() []Node
	Dial   func(nodeID string) (grpc.ClientConnInterface, error)
	// Ping sends a gossip packet to a member and returns when its answer has come.
	Ping func(ctx context.Context, nodeID string) error
	// Self tells what this node has of networks; nil: nothing.
	Self func(ctx context.Context) (*swarmv1.SurveyedSelf, error)
}

// Prober implements the Doctor service.
type Prober struct {
	swarmv1.UnimplementedDoctorServer
	cfg   Config
	deps  Deps
	slots *slots
}

// New makes a Prober.
func New(cfg Config, deps Deps) *Prober {
	return &Prober{cfg: cfg, deps: deps, slots: newSlots(answersAtOnce, answersOfNode)}
}

// Survey implements the Doctor service.
func (p *Prober) Survey(ctx context.Context, r *swarmv1.SurveyRequest) (*swarmv1.SurveyResponse, error) {
	port, err := dataPort(cmp.Or(r.DataPathPort, uint32(p.cfg.Data.Port())))
	if err != nil {
		return nil, err
	}
	others := p.deps.Others()
	nodes := make([]*swarmv1.SurveyedNode, len(others))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, n := range others {
		g.Go(func() error {
			nodes[i] = p.ask(ctx, n, port)
			return nil
		})
	}
	var self *swarmv1.SurveyedSelf
	if p.deps.Self != nil {
		if self, err = p.deps.Self(ctx); err != nil {
			self = &swarmv1.SurveyedSelf{Error: err.Error()}
		}
	}
	_ = g.Wait() // What went wrong stands in the node.
	return &swarmv1.SurveyResponse{Nodes: nodes, Self: self}, ctx.Err()
}

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

// ask probes one node from here, while it does the same from there.
func (p *Prober) ask(ctx context.Context, n Node, port uint16) *swarmv1.SurveyedNode {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	out := &swarmv1.SurveyedNode{NodeId: n.ID, Addr: n.Addr.String()}
	var g errgroup.Group
	g.Go(func() error {
		out.Out = p.try(ctx, n)
		return nil
	})
	in, overlay, err := p.exchange(ctx, n, port, out)
	_ = g.Wait() // try reports in its ways.
	out.In, out.Out = in, append(out.Out, overlay...)
	if err != nil {
		out.Error = err.Error()
	}
	return out
}

// exchange sends packets and the request, and reads the answer: the ways from the node, and those of overlay packets to it.
func (p *Prober) exchange(ctx context.Context, n Node, port uint16, about *swarmv1.SurveyedNode) (in, out []*swarmv1.TriedWay, err error) {
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // Never fails (crypto/rand).
	hear, err := listen(ctx, n.data(port).Addr(), port, nonce)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, hear.Close()) }()
	tell, err := newMouth(n.data(port), nonce)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, tell.Close()) }()
	conn, err := p.deps.Dial(n.ID)
	if err != nil {
		return nil, nil, err
	}

	speaking, hush := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error {
		tell.speak(speaking)
		return nil
	})
	defer func() {
		hush()
		_ = g.Wait() // speak returns nothing.
	}()
	sent := time.Now()
	answer, err := swarmv1.NewDoctorClient(conn).Probe(ctx, &swarmv1.ProbeRequest{
		Nonce: nonce, DataPathPort: uint32(port), Large: uint32(tell.packet),
	})
	back := time.Now()
	if err != nil {
		return nil, nil, err
	}
	answer = bounds.Probe(answer) // A peer sends it.
	about.Hostname = answer.Hostname
	offset, trip := offset(sent, answer.ReceivedAt.AsTime(), answer.AnsweredAt.AsTime(), back)
	about.ClockOffset, about.RoundTrip = durationpb.New(offset), durationpb.New(trip)
	late, stop := context.WithTimeout(ctx, grace)
	defer stop()
	small, large := hear.wait(late)
	in = append(answer.Tried, overlayWays(port, small, large, answer.Large)...)
	return in, overlayWays(port, answer.SmallCame, answer.LargeCame, uint32(tell.packet)), nil
}

// offset is how NTP tells two clocks apart: sent and back are of one, received and answered of the other.
func offset(sent, received, answered, back time.Time) (offset, roundTrip time.Duration) {
	// Between sent and back the monotonic clock counts; the other's two have none.
	roundTrip = back.Sub(sent) - answered.Sub(received)
	there, here := received.Sub(sent.Round(0)), answered.Sub(back.Round(0))
	return (there + here) / 2, max(roundTrip, 0)
}

// overlayWays words what came. That the large packet is lost is told only when the small one is not: else it is no news.
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

// try connects to the ports of a node.
func (p *Prober) try(ctx context.Context, n Node) []*swarmv1.TriedWay {
	ctx, cancel := context.WithTimeout(ctx, patience)
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
	_ = g.Wait() // What went wrong stands in the way.
	return ways
}

func connect(ctx context.Context, to netip.AddrPort) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(to.Addr().String(), strconv.Itoa(int(to.Port()))))
	if err != nil {
		return err
	}
	return conn.Close()
}

// Probe implements the Doctor service.
func (p *Prober) Probe(ctx context.Context, r *swarmv1.ProbeRequest) (*swarmv1.ProbeResponse, error) {
	received := time.Now()
	port, err := dataPort(r.DataPathPort)
	if err != nil {
		return nil, err
	}
	if len(r.Nonce) != nonceSize {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("a nonce of %d bytes: use %d", len(r.Nonce), nonceSize))
	}
	caller, err := p.caller(ctx)
	if err != nil {
		return nil, err
	}
	release, err := p.slots.take(ctx, caller.ID, patience)
	if err != nil {
		return nil, err
	}
	defer release()
	hear, err := listen(ctx, caller.data(port).Addr(), port, r.Nonce)
	if err != nil {
		return nil, err
	}
	defer hear.Close()
	tell, err := newMouth(caller.data(port), r.Nonce)
	if err != nil {
		return nil, err
	}
	defer tell.Close()
	answer := &swarmv1.ProbeResponse{
		Hostname: p.cfg.Hostname, ReceivedAt: timestamppb.New(received), Large: uint32(tell.packet),
	}
	speaking, hush := context.WithCancel(ctx)
	defer hush()
	var g, speakers errgroup.Group
	speakers.Go(func() error {
		tell.speak(speaking)
		return nil
	})
	g.Go(func() error {
		waiting, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		answer.SmallCame, answer.LargeCame = hear.wait(waiting)
		return nil
	})
	g.Go(func() error {
		answer.Tried = p.try(ctx, caller)
		return nil
	})
	g.Go(func() error {
		_ = pause.For(ctx, speech)
		return nil
	})
	_ = g.Wait() // None of them fails: what went wrong stands in the answer.
	hush()
	_ = speakers.Wait() // As above.
	answer.AnsweredAt = timestamppb.New(received.Add(time.Since(received)))
	return answer, ctx.Err()
}

// caller is the member that calls. Packets go to the address that the cluster knows it by, and nowhere else.
func (p *Prober) caller(ctx context.Context) (Node, error) {
	who, err := transport.FromContext(ctx)
	if err != nil {
		return Node{}, err
	}
	others := p.deps.Others()
	i := slices.IndexFunc(others, func(n Node) bool { return n.ID == who.NodeID() })
	if i < 0 {
		return Node{}, errdefs.ErrPermissionDenied.WithMessage(who.String() + " is no member that this node knows: probes are for the nodes of a cluster")
	}
	return others[i], nil
}

package overlay

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"swarm/bench/figure"
	"swarm/bench/testbed"
	"swarm/overlay/netns"
	"swarm/overlay/vip"
)

// connects measures opening a connection through a virtual address with many services against the
// same with few services.
func connects(ctx context.Context, e testbed.Env) error {
	var spaces [2]*connectSpace
	for i, n := range []int{10, 5000} {
		s, err := newConnectSpace(ctx, filepath.Join(e.Dir, fmt.Sprintf("c%d", n)), n)
		if err != nil {
			return err
		}
		defer s.close()
		spaces[i] = s
	}
	var few, many figure.Times
	for range max(netRounds, e.Rounds) {
		for i, to := range []*figure.Times{&few, &many, &many, &few} {
			t, err := spaces[[4]int{0, 1, 1, 0}[i]].connect(ctx)
			if err != nil {
				return err
			}
			*to = append(*to, t)
		}
	}
	figure.Print("connect_5000_vs_10", figure.TimesRatio(many, few), "x", fmt.Sprintf(
		"p50 of opening a TCP connection to a service's address among 5,000 services and among 10: %.0f and %.0f us; goal 1.1", 1e6*many.Median().Seconds(), 1e6*few.Median().Seconds()))
	return nil
}

// connectSpace is a network namespace with the addresses of services and one server.
type connectSpace struct {
	pin      string
	ns       *netns.Namespace
	balancer *vip.Balancer
	listener net.Listener
	target   netip.AddrPort
}

func newConnectSpace(ctx context.Context, pin string, services int) (*connectSpace, error) {
	if err := netns.Create(pin); err != nil {
		return nil, err
	}
	s := &connectSpace{pin: pin, balancer: vip.New()}
	if err := s.open(ctx, services); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *connectSpace) open(ctx context.Context, services int) (err error) {
	if s.ns, err = netns.Open(s.pin); err != nil {
		return err
	}
	if _, err := inside(ctx, s.pin, "ip", "link", "set", "lo", "up"); err != nil {
		return err
	}
	// The route keeps all packets inside the namespace: the loopback device answers for the address
	// that is called.
	if _, err := inside(ctx, s.pin, "ip", "route", "add", "10.0.0.0/8", "dev", "lo"); err != nil {
		return err
	}
	if err := s.ns.Do(func() (err error) { s.listener, err = net.Listen("tcp4", "127.0.0.1:0"); return err }); err != nil {
		return err
	}
	go func() { // ends with the listener
		for c, err := s.listener.Accept(); err == nil; c, err = s.listener.Accept() {
			_ = c.Close()
		}
	}()
	at := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}) }
	var all []vip.Service
	for i := range services {
		one := vip.Service{VIPs: []netip.Addr{at(1 + i)}}
		for b := range scaleBackends {
			one.Backends = append(one.Backends, at(100_000+i*scaleBackends+b))
		}
		all = append(all, one)
	}
	target := &all[services/2]
	target.Backends = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	s.target = netip.AddrPortFrom(target.VIPs[0], s.listener.Addr().(*net.TCPAddr).AddrPort().Port())
	return s.balancer.Program(ctx, s.pin, all)
}

// connect returns the median time of some connections.
func (s *connectSpace) connect(ctx context.Context) (time.Duration, error) {
	var took figure.Times
	err := s.ns.Do(func() error {
		for range 300 {
			began := time.Now()
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", s.target.String())
			if err != nil {
				return err
			}
			took = append(took, time.Since(began))
			if err := c.Close(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("connect to a service's address: %w", err)
	}
	return took.Median(), nil
}

func (s *connectSpace) close() {
	if s.listener != nil {
		_ = s.listener.Close()
	}
	if err := s.balancer.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: leave a namespace:", err)
	}
	if s.ns != nil {
		_ = s.ns.Close()
	}
	if err := netns.Delete(s.pin); err != nil {
		fmt.Fprintln(os.Stderr, "bench: remove a namespace:", err)
	}
}

//go:build linux

package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// maxPacket is the size of the longest UDP packet, rounded up.
	maxPacket = 1 << 16
	// receiveBuffer is the size of the kernel's buffer for packets that arrive while this node is
	// busy. The kernel's limit (net.core.rmem_max) may be less.
	receiveBuffer = 2 << 20
)

// sockets is a memberlist transport: one TCP and one UDP socket with the same port. It replaces
// memberlist's NetTransport, which allocates 64 KiB for each packet. On an idle node this was 90 %
// of all allocated memory. Here a packet takes only its own length.
//
// Two goroutines read, until Shutdown.
type sockets struct {
	log     *slog.Logger
	tcp     *net.TCPListener
	udp     *net.UDPConn
	packets chan *memberlist.Packet
	streams chan net.Conn
	closed  chan struct{}
	close   func() error
	readers sync.WaitGroup
}

var _ memberlist.NodeAwareTransport = (*sockets)(nil)

// listen opens both sockets and begins to read.
func listen(addr netip.AddrPort, log *slog.Logger) (*sockets, error) {
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	if err := udp.SetReadBuffer(receiveBuffer); err != nil {
		return nil, errors.Join(err, udp.Close(), tcp.Close())
	}
	s := &sockets{
		log: log, tcp: tcp, udp: udp,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), closed: make(chan struct{}),
	}
	s.close = sync.OnceValue(func() error {
		close(s.closed)
		return errors.Join(s.tcp.Close(), s.udp.Close())
	})
	s.readers.Go(s.receive)
	s.readers.Go(s.accept)
	return s, nil
}

func (s *sockets) receive() {
	buf := make([]byte, maxPacket)
	for failures := 0; ; {
		n, from, err := s.udp.ReadFromUDP(buf)
		if err != nil {
			failures++
			if !s.backoff("gossip: receive a packet", err, failures) {
				return
			}
			continue
		}
		failures = 0
		if n == 0 {
			continue
		}
		select {
		case s.packets <- &memberlist.Packet{Buf: bytes.Clone(buf[:n]), From: from, Timestamp: time.Now()}:
		case <-s.closed:
			return
		}
	}
}

func (s *sockets) accept() {
	for failures := 0; ; {
		conn, err := s.tcp.AcceptTCP()
		if err != nil {
			failures++
			if !s.backoff("gossip: accept a connection", err, failures) {
				return
			}
			continue
		}
		failures = 0
		select {
		case s.streams <- conn:
		case <-s.closed:
			_ = conn.Close()
			return
		}
	}
}

// backoff logs an error and waits, 10 ms at first and a second at most, because the next call is
// likely to fail too (for example if the process has no file descriptors left). It reports whether
// to try again: not after Shutdown.
func (s *sockets) backoff(what string, err error, failures int) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	wait := min(10*time.Millisecond<<min(failures-1, 10), time.Second)
	s.log.Warn(what, "err", err, "retry", wait)
	select {
	case <-time.After(wait):
		return true
	case <-s.closed:
		return false
	}
}

// PacketCh and the methods below implement memberlist.NodeAwareTransport.
func (s *sockets) PacketCh() <-chan *memberlist.Packet { return s.packets }

func (s *sockets) StreamCh() <-chan net.Conn { return s.streams }

func (s *sockets) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return nil, 0, fmt.Errorf("advertised address %q: %w", ip, err)
	}
	return addr.Unmap().AsSlice(), port, nil
}

func (s *sockets) WriteTo(b []byte, addr string) (time.Time, error) {
	// Names are not resolved, because addresses may come from messages of other members.
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, err
	}
	_, err = s.udp.WriteToUDPAddrPort(b, to)
	return time.Now(), err
}

func (s *sockets) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	return s.WriteTo(b, addr.Addr)
}

func (s *sockets) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	return net.DialTimeout("tcp", to.String(), timeout)
}

func (s *sockets) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return s.DialTimeout(addr.Addr, timeout)
}

// Shutdown closes the sockets and waits for the readers. A second call does nothing.
func (s *sockets) Shutdown() error {
	err := s.close()
	s.readers.Wait()
	return err
}

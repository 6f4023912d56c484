//go:build linux

package gossip_test

import (
	"errors"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// network is an Ethernet in memory. It replaces the mock of memberlist, which deadlocks.
type network struct {
	mu    sync.Mutex
	ports map[string]*port
	// drops reports whether a packet or dial between two hosts is lost.
	drops func(from, to string) bool
}

type port struct {
	net     *network
	addr    *net.TCPAddr
	packets chan *memberlist.Packet
	streams chan net.Conn
}

func newNetwork() *network {
	return &network{ports: make(map[string]*port), drops: func(string, string) bool { return false }}
}

func (n *network) attach(ip string, portNumber int) *port {
	p := &port{
		net: n, addr: &net.TCPAddr{IP: net.ParseIP(ip).To4(), Port: portNumber},
		packets: make(chan *memberlist.Packet, 1024), streams: make(chan net.Conn, 64),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[p.addr.String()] = p
	return p
}

func (n *network) setDrops(drops func(from, to string) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drops = drops
}

// to returns the port with that address, or nil if it is closed or cut off.
func (p *port) to(addr string) *port {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	host, _, _ := net.SplitHostPort(addr)
	if p.net.ports[p.addr.String()] != p || p.net.drops(p.addr.IP.String(), host) {
		return nil
	}
	return p.net.ports[addr]
}

func (p *port) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return p.addr.IP, p.addr.Port, nil
}

func (p *port) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	if peer := p.to(addr); peer != nil {
		select {
		case peer.packets <- &memberlist.Packet{Buf: append([]byte(nil), b...), From: p.addr, Timestamp: now}:
		default: // A full queue drops packets, as a socket does.
		}
	}
	return now, nil
}

func (p *port) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	peer := p.to(addr)
	if peer == nil {
		<-time.After(timeout)
		return nil, errors.New("dial " + addr + " from " + net.JoinHostPort(p.addr.IP.String(), strconv.Itoa(p.addr.Port)) + ": timeout")
	}
	here, there := net.Pipe()
	peer.streams <- there
	return here, nil
}

func (p *port) PacketCh() <-chan *memberlist.Packet { return p.packets }
func (p *port) StreamCh() <-chan net.Conn           { return p.streams }

func (p *port) Shutdown() error {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if p.net.ports[p.addr.String()] == p {
		delete(p.net.ports, p.addr.String())
	}
	return nil
}

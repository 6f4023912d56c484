package raftstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"swarm/internal/logsample"
)

// Every connection starts with a hello, in which the caller says who it is: a member of another cluster, or of this one
// before it was recovered by force, must not take part. It travels with the first bytes and costs no round trip. That the
// caller is who it says, the connection has proven; see Deps.PeerOf.
const (
	helloMagic = "swr1"
	// helloTimeout bounds how long a caller may take to send its hello.
	helloTimeout = 10 * time.Second
)

// streamLayer gives Raft the connections that this member opens, and knows those that others opened
// (see inbound). Raft's addresses are node ids: where a node is, Deps.Dial knows.
type streamLayer struct {
	cfg  Config
	deps Deps
	fsm  *fsm
	log  *slog.Logger
	done context.Context // ends with Close, and with it every dial
	stop context.CancelFunc

	sampler *logsample.Sampler

	mu   sync.Mutex            // guards open
	open map[net.Conn]struct{} // both ways; nil once closed. Raft itself forgets those that it accepted.
}

func newStreamLayer(cfg Config, deps Deps, f *fsm, log *slog.Logger) *streamLayer {
	l := &streamLayer{cfg: cfg, deps: deps, fsm: f, log: log, sampler: logsample.New(log), open: make(map[net.Conn]struct{})}
	l.done, l.stop = context.WithCancel(context.Background())
	return l
}

type nodeAddr string

func (nodeAddr) Network() string  { return "node" }
func (a nodeAddr) String() string { return string(a) }

// Addr is the member's node id.
func (l *streamLayer) Addr() net.Addr { return nodeAddr(l.cfg.NodeID) }

// Close stops accepting and dialling, and ends every connection.
func (l *streamLayer) Close() error {
	l.stop()
	l.mu.Lock()
	open := l.open
	l.open = nil
	l.mu.Unlock()
	if open == nil {
		return nil
	}
	for c := range open {
		_ = c.Close()
	}
	if l.deps.Listener == nil {
		return nil
	}
	return l.deps.Listener.Close()
}

// Accept waits for the end: what others open, inbound accepts.
func (l *streamLayer) Accept() (net.Conn, error) {
	<-l.done.Done()
	return nil, net.ErrClosed
}

// tracked is a connection that Close will end.
type tracked struct {
	net.Conn
	layer *streamLayer
}

func (l *streamLayer) track(c net.Conn) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		_ = c.Close()
		return c
	}
	l.open[c] = struct{}{}
	return &tracked{Conn: c, layer: l}
}

func (c *tracked) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.open, c.Conn)
	c.layer.mu.Unlock()
	return c.Conn.Close()
}

// Dial connects to a member.
func (l *streamLayer) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if l.deps.Dial == nil {
		return nil, fmt.Errorf("dial manager %s: no way to other managers", to)
	}
	ctx, cancel := context.WithTimeout(l.done, timeout)
	defer cancel()
	c, err := l.deps.Dial(ctx, string(to))
	if err != nil {
		return nil, fmt.Errorf("dial manager %s: %w", to, err)
	}
	return &helloConn{Conn: l.track(c), layer: l}, nil
}

func (l *streamLayer) epoch() uint64 { return l.fsm.cluster.Load().GetEpoch() }

func (l *streamLayer) hello() []byte {
	b := binary.BigEndian.AppendUint64([]byte(helloMagic), l.epoch())
	for _, s := range []string{l.cfg.NodeID, l.cfg.ClusterID} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

// greeting is a dialled connection; the hello goes out with the first write.
type helloConn struct {
	net.Conn
	layer *streamLayer
	once  sync.Once
}

func (c *helloConn) Write(p []byte) (int, error) {
	var hello []byte
	c.once.Do(func() { hello = c.layer.hello() })
	if hello == nil {
		return c.Conn.Write(p)
	}
	n, err := c.Conn.Write(append(hello, p...))
	return max(n-len(hello), 0), err
}

// refused logs a refusal, once a minute for each reason: a peer that is refused tries again and again.
func (l *streamLayer) logRefusal(from net.Addr, err error) {
	level := slog.LevelWarn
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		level = slog.LevelDebug // hung up before it said anything
	}
	l.sampler.Log(level, logsample.Reason(err), "a Raft connection is refused", "addr", from, "err", err)
}

// greet reads the hello of an accepted connection and says which member opened it. It refuses one
// that is of another cluster or epoch, or that is not who it says.
func (l *streamLayer) readHello(c net.Conn) (node string, err error) {
	_ = c.SetReadDeadline(time.Now().Add(helloTimeout))
	defer c.SetReadDeadline(time.Time{}) //nolint:errcheck // a broken connection shows at the next read
	head := make([]byte, len(helloMagic)+8)
	if _, err := io.ReadFull(c, head); err != nil {
		return "", err
	}
	if string(head[:len(helloMagic)]) != helloMagic {
		return "", errors.New("it does not speak Raft")
	}
	epoch := binary.BigEndian.Uint64(head[len(helloMagic):])
	if node, err = readHelloString(c); err != nil {
		return "", err
	}
	clusterID, err := readHelloString(c)
	if err != nil {
		return "", err
	}
	if own := l.cfg.ClusterID; own != "" && clusterID != "" && clusterID != own {
		return "", fmt.Errorf("manager %s belongs to cluster %s", node, clusterID)
	}
	if own := l.epoch(); own != 0 && epoch != 0 && epoch != own {
		return "", fmt.Errorf("manager %s is of cluster epoch %d, this is epoch %d: it must leave and join again", node, epoch, own)
	}
	if l.deps.PeerOf != nil {
		if authenticated := l.deps.PeerOf(c); authenticated != node {
			return "", fmt.Errorf("node %q says that it is manager %q", authenticated, node)
		}
	}
	return node, nil
}

// helloText reads one length and string, byte by byte as far as the length: nothing that follows
// may be swallowed.
func readHelloString(c net.Conn) (string, error) {
	n, err := binary.ReadUvarint(oneByte{c})
	if err != nil || n > 256 {
		return "", errors.Join(errors.New("a damaged hello"), err)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(c, b)
	return string(b), err
}

type oneByte struct{ io.Reader }

func (r oneByte) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r.Reader, b[:])
	return b[0], err
}

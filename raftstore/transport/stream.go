package transport

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

// Every connection starts with a hello, which names the caller's node, cluster and epoch. It keeps
// out members of other clusters, and members of this cluster that still have the state from before
// a recovery (see raftstore.Recover). The hello is sent in front of the first write, so it costs no
// round trip. It proves nothing: Deps.PeerOf returns the node that the caller has proved to be.
const (
	helloMagic = "swr1"
	// helloTimeout bounds how long a caller may take to send its hello.
	helloTimeout = 10 * time.Second
)

// streamLayer dials other members for Raft, and tracks all connections, also those that inbound
// accepts. Raft's addresses are node ids; Deps.Dial resolves them.
type streamLayer struct {
	cfg  Config
	deps Deps
	log  *slog.Logger
	done context.Context    // the parent of the contexts of all dials; ends when Close calls stop
	stop context.CancelFunc // cancels done

	sampler *logsample.Sampler

	mu   sync.Mutex            // guards open
	open map[net.Conn]struct{} // dialled and accepted connections; nil after Close
}

func newStreamLayer(cfg Config, deps Deps) *streamLayer {
	l := &streamLayer{cfg: cfg, deps: deps, log: deps.Log, sampler: logsample.New(deps.Log), open: make(map[net.Conn]struct{})}
	l.done, l.stop = context.WithCancel(context.Background())
	return l
}

type nodeAddr string

func (nodeAddr) Network() string  { return "node" }
func (a nodeAddr) String() string { return string(a) }

// Addr returns the member's node id.
func (l *streamLayer) Addr() net.Addr { return nodeAddr(l.cfg.NodeID) }

// Close closes the listener and every connection, and cancels dials.
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

// Accept blocks until Close, because inbound accepts the connections.
func (l *streamLayer) Accept() (net.Conn, error) {
	<-l.done.Done()
	return nil, net.ErrClosed
}

// tracked is a connection that streamLayer.Close closes.
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

// Dial connects to another member.
func (l *streamLayer) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if l.deps.Dial == nil {
		return nil, fmt.Errorf("dial manager %s: no dialer is configured", to)
	}
	ctx, cancel := context.WithTimeout(l.done, timeout)
	defer cancel()
	c, err := l.deps.Dial(ctx, string(to))
	if err != nil {
		return nil, fmt.Errorf("dial manager %s: %w", to, err)
	}
	return &helloConn{Conn: l.track(c), layer: l}, nil
}

func (l *streamLayer) hello() []byte {
	b := binary.BigEndian.AppendUint64([]byte(helloMagic), l.cfg.Epoch())
	for _, s := range []string{l.cfg.NodeID, l.cfg.ClusterID} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

// helloConn is a dialled connection. It sends the hello in front of the first write.
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

// logRefusal logs a refused connection. It logs each reason at most once a minute, because a
// refused peer retries for ever.
func (l *streamLayer) logRefusal(from net.Addr, err error) {
	level := slog.LevelWarn
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		level = slog.LevelDebug // the peer hung up
	}
	l.sampler.Log(level, logsample.Reason(err), "refused a Raft connection", "addr", from, "err", err)
}

// readHello reads the hello of an accepted connection and returns the caller's node id. It fails if
// the caller has another cluster or epoch, or another node id than it has authenticated as.
func (l *streamLayer) readHello(c net.Conn) (node string, err error) {
	_ = c.SetReadDeadline(time.Now().Add(helloTimeout))
	defer c.SetReadDeadline(time.Time{}) //nolint:errcheck // a broken connection fails at the next read
	head := make([]byte, len(helloMagic)+8)
	if _, err := io.ReadFull(c, head); err != nil {
		return "", err
	}
	if string(head[:len(helloMagic)]) != helloMagic {
		return "", errors.New("the peer does not speak Raft")
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
	if own := l.cfg.Epoch(); own != 0 && epoch != 0 && epoch != own {
		return "", fmt.Errorf("manager %s has cluster epoch %d, but this manager has epoch %d: the one with the lower epoch must leave and join again", node, epoch, own)
	}
	if l.deps.PeerOf != nil {
		if authenticated := l.deps.PeerOf(c); authenticated != node {
			return "", fmt.Errorf("node %q claims to be manager %q", authenticated, node)
		}
	}
	return node, nil
}

// readHelloString reads a length and a string. It reads the length byte by byte, so that it
// consumes nothing after the string.
func readHelloString(c net.Conn) (string, error) {
	n, err := binary.ReadUvarint(oneByte{c})
	if err != nil || n > 256 {
		return "", errors.Join(errors.New("the hello is damaged"), err)
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

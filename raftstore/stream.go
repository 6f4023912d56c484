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
)

// Every connection starts with a hello, in which the caller says who it is: a member of another cluster, or of this one
// before it was recovered by force, must not take part. It travels with the first bytes and costs no round trip.
const helloMagic = "swr1"

// streamLayer gives Raft its connections. Raft's addresses are node ids: where a node is, Deps.Dial knows.
type streamLayer struct {
	cfg  Config
	deps Deps
	fsm  *fsm
	log  *slog.Logger
	done context.Context // ends with Close, and with it every dial
	stop context.CancelFunc

	mu   sync.Mutex            // guards the rest
	open map[net.Conn]struct{} // both ways; nil once closed. Raft itself forgets those that it accepted.
	said map[string]time.Time  // when a refusal was logged last, by its text
}

func newStreamLayer(cfg Config, deps Deps, f *fsm, log *slog.Logger) *streamLayer {
	l := &streamLayer{cfg: cfg, deps: deps, fsm: f, log: log, open: make(map[net.Conn]struct{}), said: make(map[string]time.Time)}
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

// Accept waits for a connection. Its hello is read with its first bytes, so that a silent caller holds up nobody.
func (l *streamLayer) Accept() (net.Conn, error) {
	if l.deps.Listener == nil {
		<-l.done.Done()
		return nil, net.ErrClosed
	}
	c, err := l.deps.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &greeted{Conn: l.track(c), layer: l}, nil
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
	return &greeting{Conn: l.track(c), layer: l}, nil
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
type greeting struct {
	net.Conn
	layer *streamLayer
	once  sync.Once
}

func (c *greeting) Write(p []byte) (int, error) {
	var hello []byte
	c.once.Do(func() { hello = c.layer.hello() })
	if hello == nil {
		return c.Conn.Write(p)
	}
	n, err := c.Conn.Write(append(hello, p...))
	return max(n-len(hello), 0), err
}

// greeted is an accepted connection; the hello is judged before the first byte is read.
type greeted struct {
	net.Conn
	layer *streamLayer
	once  sync.Once
	err   error
}

func (c *greeted) Read(p []byte) (int, error) {
	c.once.Do(func() {
		if c.err = c.judge(); c.err != nil {
			c.layer.refused(c.RemoteAddr(), c.err)
		}
	})
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(p)
}

// refused logs a refusal, once a minute for each reason: a peer that is refused tries again and again.
func (l *streamLayer) refused(from net.Addr, err error) {
	level := slog.LevelWarn
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		level = slog.LevelDebug // hung up before it said anything
	}
	l.mu.Lock()
	due := time.Since(l.said[err.Error()]) > time.Minute
	if due {
		if len(l.said) > 100 {
			clear(l.said)
		}
		l.said[err.Error()] = time.Now()
	}
	l.mu.Unlock()
	if due {
		l.log.Log(context.Background(), level, "a Raft connection is refused", "addr", from, "err", err)
	}
}

func (c *greeted) judge() error {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	defer c.SetReadDeadline(time.Time{}) //nolint:errcheck // a broken connection shows at the next read
	head := make([]byte, len(helloMagic)+8)
	if _, err := io.ReadFull(c.Conn, head); err != nil {
		return err
	}
	if string(head[:len(helloMagic)]) != helloMagic {
		return errors.New("it does not speak Raft")
	}
	epoch := binary.BigEndian.Uint64(head[len(helloMagic):])
	node, err := c.text()
	if err != nil {
		return err
	}
	cluster, err := c.text()
	if err != nil {
		return err
	}
	if mine := c.layer.cfg.ClusterID; mine != "" && cluster != "" && cluster != mine {
		return fmt.Errorf("manager %s belongs to cluster %s", node, cluster)
	}
	if mine := c.layer.epoch(); mine != 0 && epoch != 0 && epoch != mine {
		return fmt.Errorf("manager %s is of cluster epoch %d, this is epoch %d: it must leave and join again", node, epoch, mine)
	}
	return nil
}

// text reads one length and string, byte by byte as far as the length: nothing that follows may be swallowed.
func (c *greeted) text() (string, error) {
	n, err := binary.ReadUvarint(oneByte{c.Conn})
	if err != nil || n > 256 {
		return "", errors.Join(errors.New("a damaged hello"), err)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(c.Conn, b)
	return string(b), err
}

type oneByte struct{ io.Reader }

func (r oneByte) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r.Reader, b[:])
	return b[0], err
}

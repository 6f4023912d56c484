package scenarios

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"swarm/dev"
)

const (
	// floodStreams is the number of streams of a hostile connection.
	floodStreams = 160
	// floodBytes bounds the bytes that all hostile streams send together.
	floodBytes = 1 << 30
)

// flood is a set of hostile connections to a manager.
type flood struct {
	c    *testCluster
	host dev.Host
	from []netip.Addr
	sent atomic.Int64 // bytes

	wg    sync.WaitGroup
	mu    sync.Mutex // guards the fields below
	conns []net.Conn
	over  bool
}

func newFlood(c *testCluster, host dev.Host, from []netip.Addr) *flood {
	return &flood{c: c, host: host, from: from}
}

// open opens connections and returns when each has begun its attack.
func (f *flood) open(n int) {
	var begun sync.WaitGroup
	slots := make(chan struct{}, 256)
	for i := range n {
		slots <- struct{}{}
		begun.Add(1)
		began := sync.OnceFunc(func() { begun.Done(); <-slots })
		f.attack(i, began)
		time.AfterFunc(time.Second, began)
	}
	begun.Wait()
}

// press opens more connections, one after the other, until close.
func (f *flood) press() {
	f.wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond) // The pace leaves the machine time, so that the test does not measure its load.
		defer tick.Stop()
		for i := 0; !f.ended(); i++ {
			f.attack(i, func() {})
			<-tick.C
		}
	})
}

// attack opens one connection and attacks through it. A quarter of the connections come from one
// address. attack calls began once the attack has begun.
func (f *flood) attack(i int, began func()) {
	attacks := []func(net.Conn) error{f.sayNothing, f.beIdle, f.announce, f.floodHeaders, f.resetStreams}
	var from netip.Addr
	if i%4 != 0 {
		from = f.from[i%len(f.from)]
	}
	conn := f.c.dialAs(f.host, from)
	if conn == nil || !f.keep(conn) {
		began()
		return
	}
	f.wg.Go(func() {
		defer conn.Close()
		_ = attacks[i%len(attacks)](conn) // The manager closes the connection at some point.
		began()
		_, _ = io.Copy(io.Discard, conn)
	})
}

func (f *flood) ended() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.over
}

func (f *flood) keep(conn net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		_ = conn.Close()
		return false
	}
	f.conns = append(f.conns, conn)
	return true
}

// close closes all connections.
func (f *flood) close() {
	f.mu.Lock()
	f.over = true
	conns := f.conns
	f.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	f.wg.Wait()
}

func (f *flood) sayNothing(net.Conn) error { return nil }

func (f *flood) beIdle(conn net.Conn) error {
	_, _, err := shake(conn)
	return err
}

// shake opens HTTP/2 on a connection, without a client certificate.
func shake(raw net.Conn) (*tls.Conn, *http2.Framer, error) {
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err := conn.Handshake(); err != nil {
		return nil, nil, err
	}
	framer, err := beginHTTP2(conn)
	return conn, framer, err
}

func beginHTTP2(conn *tls.Conn) (*http2.Framer, error) {
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return nil, err
	}
	framer := http2.NewFramer(conn, conn)
	return framer, framer.WriteSettings()
}

// publicCall is the path of a call that needs no certificate.
const publicCall = "/swarm.v1.CA/Join"

// request returns the header block of a call.
func request(path string) []byte {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, h := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "https"},
		{Name: ":path", Value: path},
		{Name: ":authority", Value: "x"},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"},
	} {
		_ = e.WriteField(h) // It writes to memory and cannot fail.
	}
	return block.Bytes()
}

// floodHeaders sends a header list that does not end.
func (f *flood) floodHeaders(raw net.Conn) error {
	_, framer, err := shake(raw)
	if err != nil {
		return err
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request(publicCall)}); err != nil {
		return err
	}
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	e.SetMaxDynamicTableSize(0)
	_ = e.WriteField(hpack.HeaderField{Name: "x", Value: string(bytes.Repeat([]byte("~"), 12<<10))}) // It writes to memory and cannot fail.
	for range 200 {
		if err := f.spend(block.Len()); err != nil {
			return err
		}
		if err := framer.WriteContinuation(1, false, block.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// resetStreams begins calls and resets them.
func (f *flood) resetStreams(raw net.Conn) error {
	_, framer, err := shake(raw)
	if err != nil {
		return err
	}
	for id := uint32(1); id < 4000; id += 2 {
		if err := f.spend(100); err != nil {
			return err
		}
		if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: request(publicCall), EndHeaders: true}); err != nil {
			return err
		}
		if err := framer.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
			return err
		}
	}
	return nil
}

// announce begins large messages on many streams, and sends as much of each as flow control allows.
func (f *flood) announce(raw net.Conn) error {
	_, framer, err := shake(raw)
	if err != nil {
		return err
	}
	return promise{path: publicCall, streams: floodStreams, size: 16<<20 - 1, sends: 2 << 20, spend: f.spend}.make(framer)
}

// promise describes messages that are begun and not ended.
type promise struct {
	path        string
	streams     uint32
	size, sends int             // bytes of each message: the announced size, and the most that is sent
	spend       func(int) error // called with the number of bytes sent
}

// make returns when the connection ends or the messages are sent as far as they shall be.
func (p promise) make(framer *http2.Framer) error {
	w := &windows{conn: 65535, stream: map[uint32]int{}, sent: map[uint32]int{}, perStream: p.sends, more: make(chan struct{}, 1)}
	go w.read(framer)
	prefix := binary.BigEndian.AppendUint32([]byte{0}, uint32(p.size))
	block := request(p.path)
	for i := range p.streams {
		if err := w.write(func() error {
			id := 2*i + 1
			if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true}); err != nil {
				return err
			}
			w.stream[id], w.conn = 65535-len(prefix), w.conn-len(prefix)
			return framer.WriteData(id, false, prefix)
		}); err != nil {
			return err
		}
	}
	chunk := make([]byte, 16<<10)
	for {
		id, ok := w.take(len(chunk))
		if !ok {
			return nil
		}
		if err := p.spend(len(chunk)); err != nil {
			return err
		}
		if err := w.write(func() error { return framer.WriteData(id, false, chunk) }); err != nil {
			return err
		}
	}
}

// spend counts the bytes that are sent, and ends the attack at floodBytes.
func (f *flood) spend(n int) error {
	if f.sent.Add(int64(n)) > floodBytes {
		return errStopped
	}
	return nil
}

// windows is HTTP/2's flow control of one connection.
type windows struct {
	mu     sync.Mutex // guards all fields and the framer's writes
	conn   int
	stream map[uint32]int
	sent   map[uint32]int
	// perStream bounds the bytes that one stream sends.
	perStream int
	ended     bool
	more      chan struct{}
}

func (w *windows) write(do func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return do()
}

// read processes the frames of the other side.
func (w *windows) read(framer *http2.Framer) {
	for {
		frame, err := framer.ReadFrame()
		w.mu.Lock()
		switch frame := frame.(type) {
		case *http2.WindowUpdateFrame:
			if frame.StreamID == 0 {
				w.conn += int(frame.Increment)
			} else {
				w.stream[frame.StreamID] += int(frame.Increment)
			}
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = framer.WriteSettingsAck() // The next read fails on a broken connection.
			}
		case *http2.RSTStreamFrame:
			delete(w.stream, frame.StreamID)
		case *http2.PingFrame:
			if !frame.IsAck() {
				_ = framer.WritePing(true, frame.Data) // The next read fails on a broken connection.
			}
		}
		w.ended = w.ended || err != nil
		w.mu.Unlock()
		select {
		case w.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// take waits for a stream on which n bytes may be sent.
func (w *windows) take(n int) (uint32, bool) {
	for {
		w.mu.Lock()
		if w.conn >= n {
			for id, room := range w.stream {
				if room >= n && w.sent[id]+n <= w.perStream {
					w.conn -= n
					w.stream[id] -= n
					w.sent[id] += n
					w.mu.Unlock()
					return id, true
				}
			}
		}
		ended := w.ended
		w.mu.Unlock()
		if ended {
			return 0, false
		}
		<-w.more
	}
}

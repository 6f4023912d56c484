//go:build linux

package vxlan

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/netns"
)

// batchSize is how many bytes of requests are sent at once. The answers, one for each
// request that failed, must fit the socket's receive buffer (208 KiB by default).
const batchSize = 32 << 10

// batch sends neighbour requests to the kernel, many in one message. The library has
// one request a message, with an answer each: at thousands of entries three times slower.
type batch struct {
	fd  int
	seq uint32
	buf []byte
	// last is where the last request in buf begins.
	last int
	// forgiven maps sequence numbers in buf to the error that is none.
	forgiven map[uint32]unix.Errno
	errs     []error
	in       []byte
}

type attribute struct {
	kind  uint16
	value []byte
}

func openBatch(ns *netns.Namespace) (*batch, error) {
	b := &batch{forgiven: make(map[uint32]unix.Errno), in: make([]byte, 64<<10)}
	err := ns.Do(func() error {
		var err error
		if b.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err != nil {
			return err
		}
		return errors.Join(
			unix.Bind(b.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
			// Answers without a copy of the request.
			unix.SetsockoptInt(b.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
			// The kernel answers while it is being asked; this is for a bug, not for a delay.
			unix.SetsockoptTimeval(b.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60}),
		)
	})
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return b, nil
}

func (b *batch) close() error { return unix.Close(b.fd) }

// add queues a request; forgive is an error that does not count.
func (b *batch) add(kind, flags uint16, forgive unix.Errno, m *netlink.Ndmsg, attrs ...attribute) {
	b.seq++
	if forgive != 0 {
		b.forgiven[b.seq] = forgive
	}
	b.last = len(b.buf)
	// Length, type, flags, sequence and sender; the length follows when it is known.
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, kind)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, unix.NLM_F_REQUEST|flags)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, b.seq)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0)
	b.buf = append(b.buf, m.Serialize()...)
	for _, a := range attrs {
		b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(unix.SizeofRtAttr+len(a.value)))
		b.buf = binary.NativeEndian.AppendUint16(b.buf, a.kind)
		b.buf = append(b.buf, a.value...)
		for len(b.buf)%unix.NLMSG_ALIGNTO != 0 {
			b.buf = append(b.buf, 0)
		}
	}
	binary.NativeEndian.PutUint32(b.buf[b.last:], uint32(len(b.buf)-b.last))
	if len(b.buf) >= batchSize {
		b.send()
	}
}

// flush sends what is queued and returns what went wrong since the last flush.
func (b *batch) flush() error {
	if len(b.buf) > 0 {
		b.send()
	}
	err := errors.Join(b.errs...)
	b.errs = nil
	return err
}

// send has the last request acknowledged: the others are answered only when they fail.
func (b *batch) send() {
	flags := b.buf[b.last+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	err := unix.Sendto(b.fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = b.receive()
	}
	// One of a kind is enough to know.
	if err != nil && len(b.errs) < 4 {
		b.errs = append(b.errs, err)
	}
	b.buf = b.buf[:0]
	clear(b.forgiven)
}

// receive reads answers until that to the last request.
func (b *batch) receive() error {
	var first error
	for {
		n, _, err := unix.Recvfrom(b.fd, b.in, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		for msg := b.in[:n]; len(msg) >= unix.SizeofNlMsghdr+4; {
			size := int(binary.NativeEndian.Uint32(msg))
			if size < unix.SizeofNlMsghdr+4 || size > len(msg) {
				return fmt.Errorf("netlink: message of %d bytes: %w", size, unix.EBADMSG)
			}
			seq := binary.NativeEndian.Uint32(msg[8:])
			if binary.NativeEndian.Uint16(msg[4:]) == unix.NLMSG_ERROR {
				errno := unix.Errno(-int32(binary.NativeEndian.Uint32(msg[unix.SizeofNlMsghdr:])))
				if errno != 0 && errno != b.forgiven[seq] && first == nil {
					first = errno
				}
				if seq == b.seq {
					return first
				}
			}
			msg = msg[min(len(msg), (size+3)&^3):]
		}
	}
}

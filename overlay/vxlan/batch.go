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

// batchSize is the number of bytes of requests that are sent at once. The kernel answers each
// request that failed. The answers must fit the socket's receive buffer, which has 208 KiB by
// default.
const batchSize = 32 << 10

// batch sends many neighbour requests to the kernel in one message. The netlink library sends one
// request per message and waits for each answer, which is three times slower for thousands of
// entries.
type batch struct {
	fd  int
	seq uint32
	buf []byte
	// last is the offset of the last request in buf.
	last int
	// ignored has, by sequence number, the error of a request in buf that does not count as a
	// failure.
	ignored map[uint32]unix.Errno
	errs    []error
	in      []byte
}

type attribute struct {
	kind  uint16
	value []byte
}

func openBatch(ns *netns.Namespace) (*batch, error) {
	b := &batch{ignored: make(map[uint32]unix.Errno), in: make([]byte, 64<<10)}
	err := ns.Do(func() error {
		var err error
		if b.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err != nil {
			return err
		}
		return errors.Join(
			unix.Bind(b.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
			// The kernel leaves the copy of the request out of each answer.
			unix.SetsockoptInt(b.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
			// The kernel answers before Sendto returns. The timeout only protects against a bug.
			unix.SetsockoptTimeval(b.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60}),
		)
	})
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return b, nil
}

func (b *batch) close() error { return unix.Close(b.fd) }

// add queues a request. If the kernel answers with the error ignore, the request does not count as
// failed.
func (b *batch) add(kind, flags uint16, ignore unix.Errno, m *netlink.Ndmsg, attrs ...attribute) {
	b.seq++
	if ignore != 0 {
		b.ignored[b.seq] = ignore
	}
	b.last = len(b.buf)
	// The header has length, type, flags, sequence number and sender. The length is set below.
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

// flush sends the queued requests and returns the errors since the last flush.
func (b *batch) flush() error {
	if len(b.buf) > 0 {
		b.send()
	}
	err := errors.Join(b.errs...)
	b.errs = nil
	return err
}

// send sends the queued requests. Only the last one asks for an acknowledgement; the kernel answers
// the others only if they fail.
func (b *batch) send() {
	flags := b.buf[b.last+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	err := unix.Sendto(b.fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = b.receive()
	}
	// Keep the first four errors: the rest are usually the same.
	if err != nil && len(b.errs) < 4 {
		b.errs = append(b.errs, err)
	}
	b.buf = b.buf[:0]
	clear(b.ignored)
}

// receive reads answers up to the answer to the last request, and returns the first error.
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
				if errno != 0 && errno != b.ignored[seq] && first == nil {
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

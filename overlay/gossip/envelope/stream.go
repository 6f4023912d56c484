package envelope

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	// partSize is the greatest payload of one part of a message. It bounds how much memory a sender
	// can use before its first part is verified.
	partSize = 32 << 10
	// MaxMessage is the greatest length of a message on a stream, in bytes. The state of 10,000
	// members is shorter.
	MaxMessage = 4 << 20
)

// Message seals a message for a stream, in parts. Each part is an envelope with its length (4
// bytes) before it.
func (s *Sealer) Message(payload []byte) ([]byte, error) {
	if len(payload) > MaxMessage {
		return nil, fmt.Errorf("gossip message of %d bytes, want at most %d", len(payload), MaxMessage)
	}
	n := uint64(max(1, (len(payload)+partSize-1)/partSize))
	seq := s.parts.Add(n) - n
	out := make([]byte, 0, len(payload)+int(n)*(4+Overhead(len(s.id))))
	for i := range n {
		part := payload[min(int(i)*partSize, len(payload)):min(int(i+1)*partSize, len(payload))]
		kind := More
		if i == n-1 {
			kind = Last
		}
		at := len(out)
		out = append(out, 0, 0, 0, 0)
		var err error
		if out, err = s.seal(out, kind, seq+1+i, part); err != nil {
			return nil, err
		}
		binary.BigEndian.PutUint32(out[at:], uint32(len(out)-at-4))
	}
	return out, nil
}

// ReadMessage reads and opens one message from a stream, and returns the id of its sender. It
// returns the errors of r and of Open. The caller must set a deadline.
func (o *Opener) ReadMessage(r io.Reader) (sender string, message []byte, err error) {
	var (
		size [4]byte
		last Opened
	)
	for i := 0; ; i++ {
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return "", nil, err
		}
		n := binary.BigEndian.Uint32(size[:])
		if n > uint32(partSize+Overhead(MaxID)) {
			return "", nil, ErrForeign
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return "", nil, err
		}
		part, err := o.Open(b)
		switch {
		case err != nil:
			return "", nil, err
		case part.Kind == Packet,
			i > 0 && (part.Sender != last.Sender || part.session != last.session || part.seq != last.seq+1),
			len(message)+len(part.Payload) > MaxMessage:
			return "", nil, ErrMalformed
		}
		last = part
		if message = append(message, part.Payload...); part.Kind == Last {
			return part.Sender, message, nil
		}
	}
}

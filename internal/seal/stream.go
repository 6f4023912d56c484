package seal

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"

	"swarm/internal/ident"
)

// A sealed stream is a header (magic byte, key id, salt) and chunks. Each chunk has chunkSize plain
// bytes and is sealed with a key that is derived from the data key and the salt. Its nonce is the
// number of the chunk. The last byte of the nonce marks the last chunk, which may be short or
// empty. Chunks can therefore not be swapped, dropped or appended without detection, and a stream
// that ends early differs from a complete one. This is the STREAM construction of Hoang,
// Reyhanitabar, Rogaway and Vizár.
const (
	// magicStream is the first byte of a stream and the version of its format. It has the value of
	// magicRecord, because a reader always knows which of the two it reads.
	magicStream  = 0xE2
	saltSize     = 32
	streamHeader = 1 + len(KeyID{}) + saltSize
	chunkSize    = 64 << 10
	sealedChunk  = chunkSize + 16
)

// ErrTruncated means that the stream ends before its last chunk, as after a crash during its
// writing.
var ErrTruncated = damaged("it ends too early: it was cut, or it was never completely written")

var (
	errClosed  = errors.New("write sealed stream: already closed")
	errTooLong = damaged("it has more chunks than a stream can have")
)

// Writer encrypts the data that is written to it. Close writes the last chunk. Without Close, a
// Reader of the stream returns ErrTruncated. A caller that cannot write all of its data must
// therefore not call Close.
type Writer struct {
	w    io.Writer
	aead cipher.AEAD
	n    chunkNonce
	buf  []byte // plain bytes of the chunk being filled
	out  []byte
	err  error
}

// NewWriter returns a Writer to w, and writes the header.
func NewWriter(w io.Writer, ring *Ring) (*Writer, error) {
	key := ring.keys[0]
	id := key.ID()
	header := make([]byte, 0, streamHeader)
	header = append(header, magicStream)
	header = append(header, id[:]...)
	header = append(header, ident.RandomBytes(saltSize)...)
	if _, err := w.Write(header); err != nil {
		return nil, err
	}
	return &Writer{
		w: w, aead: streamAEAD(key, header),
		buf: make([]byte, 0, chunkSize), out: make([]byte, 0, sealedChunk),
	}, nil
}

// Write implements io.Writer. It buffers up to one chunk.
func (w *Writer) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 && w.err == nil {
		if len(w.buf) == chunkSize { // seal a full chunk only when more data follows: the last chunk has another nonce
			w.flush(false)
			continue
		}
		n := min(len(p), chunkSize-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		p, total = p[n:], total+n
	}
	return total, w.err
}

// Close seals the last chunk. It does not close the underlying writer.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	w.flush(true)
	if w.err != nil {
		return w.err
	}
	w.err = errClosed
	return nil
}

func (w *Writer) flush(last bool) {
	nonce, err := w.n.next(last)
	if err != nil {
		w.err = err
		return
	}
	_, w.err = w.w.Write(w.aead.Seal(w.out[:0], nonce, w.buf, nil))
	w.buf = w.buf[:0]
}

// Reader decrypts a sealed stream. It returns only authenticated bytes, and io.EOF only after the
// last chunk.
type Reader struct {
	r     io.Reader
	aead  cipher.AEAD
	n     chunkNonce
	in    []byte // one sealed chunk and one more byte, which shows whether another chunk follows
	have  int    // the number of bytes in in
	plain []byte // opened bytes that are not read yet
	buf   []byte // the memory of plain
	err   error
}

// NewReader returns a Reader of r, and reads the header. It returns errdefs.ErrNotFound if the ring
// lacks the key.
func NewReader(r io.Reader, ring *Ring) (*Reader, error) {
	header := make([]byte, streamHeader)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, endError(err)
	}
	if header[0] != magicStream {
		return nil, damaged("it does not start as a sealed stream does (%#x)", header[0])
	}
	key, err := ring.find(KeyID(header[1:]))
	if err != nil {
		return nil, err
	}
	return &Reader{r: r, aead: streamAEAD(key, header), in: make([]byte, sealedChunk+1), buf: make([]byte, 0, chunkSize)}, nil
}

// Read implements io.Reader. It returns ErrTruncated if the stream ends early, and
// errdefs.ErrDataLoss if a chunk was changed.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.plain) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		r.fill()
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

// fill opens the next chunk. A chunk is the last one if no data follows. The nonce proves that it
// was also sealed as the last one.
func (r *Reader) fill() {
	n, err := io.ReadFull(r.r, r.in[r.have:])
	r.have += n
	last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	if err != nil && !last {
		r.err = err
		return
	}
	size := min(r.have, sealedChunk)
	nonce, err := r.n.next(last)
	if err != nil {
		r.err = err
		return
	}
	plain, err := r.aead.Open(r.buf[:0], nonce, r.in[:size], nil)
	switch {
	case err == nil && last:
		r.err = io.EOF
	case err != nil && last && r.sealedAsMiddle(size):
		r.err = ErrTruncated
	case err != nil && last && r.have < 16:
		r.err = ErrTruncated
	case err != nil:
		r.err = damaged("chunk %d was changed or cut", r.n.count-1)
	}
	if err == nil {
		r.plain = plain
	}
	r.have = copy(r.in, r.in[size:r.have])
}

// sealedAsMiddle reports whether the chunk at the end of the data is an intact chunk from the
// middle of a stream.
func (r *Reader) sealedAsMiddle(size int) bool {
	r.n.count--
	nonce, err := r.n.next(false)
	if err != nil {
		return false
	}
	_, err = r.aead.Open(nil, nonce, r.in[:size], nil)
	return err == nil
}

// chunkNonce counts chunks. A nonce has 3 zero bytes, the number of the chunk in 8 bytes, and 1
// byte that is 1 for the last chunk.
type chunkNonce struct{ count uint64 }

// maxChunks limits the chunks of a stream. It is far beyond any snapshot (256 TiB) and within the
// limit of one GCM key.
const maxChunks = 1 << 32

func (c *chunkNonce) next(last bool) ([]byte, error) {
	if c.count >= maxChunks {
		return nil, errTooLong
	}
	nonce := make([]byte, 12)
	binary.BigEndian.PutUint64(nonce[3:11], c.count)
	if last {
		nonce[11] = 1
	}
	c.count++
	return nonce, nil
}

func streamAEAD(key Key, header []byte) cipher.AEAD {
	derived, err := hkdf.Key(sha256.New, key[:], header[1+len(KeyID{}):], "swarm stream v1\x00"+string(header[:1]), KeySize)
	if err != nil {
		panic("seal: " + err.Error()) // only for a length beyond the limit of HKDF
	}
	return newGCM(derived)
}

// endError turns the end of the input into ErrTruncated.
func endError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTruncated
	}
	return err
}

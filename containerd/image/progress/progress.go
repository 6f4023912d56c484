//go:build linux

// Package progress counts the bytes of images on their way, and reports them to the caller in
// Docker's words.
//
// It owns these words and how often a report is sent. It keeps nothing beyond one transfer. Package
// image and its subpackages call it. It runs no goroutine; reports are sent on the goroutine that
// counts, one at a time for each Meter.
package progress

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	swarmv1 "swarm/proto/swarm/v1"
)

// reportEvery is the shortest time between two reports of a meter, so that reports do not become
// the bulk of the traffic.
const reportEvery = 100 * time.Millisecond

// Meter counts the bytes of one step, and reports them at most every reportEvery. Its methods are
// safe for concurrent use.
type Meter struct {
	step string
	id   string                       // of the layer; empty: the whole image
	tell func(*swarmv1.ImageProgress) // may be nil

	mu      sync.Mutex // guards the fields below; held while tell is called, so that reports stay in order
	current int64
	total   int64
	last    time.Time
}

// NewMeter returns a meter of a step that moves total bytes; 0 if that is not known. tell may be
// nil.
func NewMeter(step string, total int64, tell func(*swarmv1.ImageProgress)) *Meter {
	return &Meter{step: step, total: total, tell: tell}
}

// Add counts n bytes. n is negative when bytes have to be fetched again.
func (m *Meter) Add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current += n
	if now := time.Now(); m.tell != nil && now.Sub(m.last) >= reportEvery {
		m.last = now
		m.tellLocked()
	}
}

// Flush reports the current count now.
func (m *Meter) Flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tellLocked()
}

func (m *Meter) tellLocked() {
	if m.tell != nil {
		m.tell(&swarmv1.ImageProgress{Id: m.id, Step: m.step, Current: m.current, Total: m.total})
	}
}

// Docker's words for the state of a layer.
const (
	Waiting       = "Pulling fs layer"
	Downloading   = "Downloading"
	Downloaded    = "Download complete"
	Held          = "Already exists"
	Pulled        = "Pull complete"
	Pushing       = "Pushing"
	Pushed        = "Pushed"
	AlreadyPushed = "Layer already exists"
)

// Board reports each layer of one image that is being transferred.
type Board struct {
	tell   func(*swarmv1.ImageProgress) // may be nil
	layers map[digest.Digest]*Meter     // the layers that are transferred
}

// NewBoard returns a board for the layers among the blobs in moving. step is the word for their
// transfer. tell may be nil.
func NewBoard(tell func(*swarmv1.ImageProgress), step string, moving []ocispec.Descriptor) *Board {
	b := &Board{tell: tell, layers: map[digest.Digest]*Meter{}}
	for _, desc := range moving {
		if images.IsLayerType(desc.MediaType) {
			m := NewMeter(step, desc.Size, tell)
			m.id = shortLayer(desc.Digest)
			b.layers[desc.Digest] = m
		}
	}
	return b
}

// Of returns the meter of a blob. If the blob is not a layer that is transferred, the meter reports
// nothing.
func (b *Board) Of(d digest.Digest) *Meter {
	if m := b.layers[d]; m != nil {
		return m
	}
	return NewMeter("", 0, nil)
}

// Say reports a word for each layer among blobs.
func (b *Board) Say(word string, blobs ...ocispec.Descriptor) {
	for _, desc := range blobs {
		if b.tell != nil && images.IsLayerType(desc.MediaType) {
			b.tell(&swarmv1.ImageProgress{Id: shortLayer(desc.Digest), Step: word})
		}
	}
}

// SayAll reports a word for each layer that was transferred.
func (b *Board) SayAll(word string) {
	for id := range b.layers {
		if b.tell != nil {
			b.tell(&swarmv1.ImageProgress{Id: shortLayer(id), Step: word})
		}
	}
}

// Count returns how many bytes were counted.
func (m *Meter) Count() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current
}

// shortLayerLen is how many digits of a layer's digest are reported, as in Docker.
const shortLayerLen = 12

func shortLayer(d digest.Digest) string {
	hex := d.Encoded()
	return hex[:min(shortLayerLen, len(hex))]
}

// Reader counts in Meter what is read from From. It is not safe for concurrent use.
type Reader struct {
	From  io.Reader
	Meter *Meter
	// Err is the last error of From other than io.EOF. It tells a failure of the source from an
	// error that its content leads to.
	Err error
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.From.Read(p)
	r.Meter.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		r.Err = err
	}
	return n, err
}

//go:build linux

package image

import (
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	swarmv1 "swarm/proto/swarm/v1"
)

// reportEvery keeps progress from becoming the traffic.
const reportEvery = 100 * time.Millisecond

// meter counts bytes and tells of them now and then.
type meter struct {
	step string
	id   string                       // of the layer; empty: the whole
	tell func(*swarmv1.ImageProgress) // may be nil

	mu      sync.Mutex // guards what follows; held while telling, so that messages stay in order
	current int64
	total   int64
	last    time.Time
}

func newMeter(step string, total int64, tell func(*swarmv1.ImageProgress)) *meter {
	return &meter{step: step, total: total, tell: tell}
}

// add counts bytes; negative when they have to be fetched again.
func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current += n
	if now := time.Now(); m.tell != nil && now.Sub(m.last) >= reportEvery {
		m.last = now
		m.tellLocked()
	}
}

// flush tells where things stand.
func (m *meter) flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tellLocked()
}

func (m *meter) tellLocked() {
	if m.tell != nil {
		m.tell(&swarmv1.ImageProgress{Id: m.id, Step: m.step, Current: m.current, Total: m.total})
	}
}

// Docker's words for what becomes of a layer.
const (
	layerWaits = "Pulling fs layer"
	layerComes = "Downloading"
	layerHere  = "Download complete"
	layerHeld  = "Already exists"
	layerDone  = "Pull complete"
	layerGoes  = "Pushing"
	layerGone  = "Pushed"
	layerThere = "Layer already exists"
)

// board shows each layer of one image on its way.
type board struct {
	tell   func(*swarmv1.ImageProgress) // may be nil
	layers map[digest.Digest]*meter     // those that move
}

// newBoard shows the layers among blobs: moving is what each does now, said by step.
func newBoard(tell func(*swarmv1.ImageProgress), step string, moving []ocispec.Descriptor) *board {
	b := &board{tell: tell, layers: map[digest.Digest]*meter{}}
	for _, desc := range moving {
		if images.IsLayerType(desc.MediaType) {
			m := newMeter(step, desc.Size, tell)
			m.id = shortLayer(desc.Digest)
			b.layers[desc.Digest] = m
		}
	}
	return b
}

// of is the meter of a blob; one that nobody reads when the blob is no layer on its way.
func (b *board) of(d digest.Digest) *meter {
	if m := b.layers[d]; m != nil {
		return m
	}
	return newMeter("", 0, nil)
}

// say tells what has become of the layers among blobs.
func (b *board) say(word string, blobs ...ocispec.Descriptor) {
	for _, desc := range blobs {
		if b.tell != nil && images.IsLayerType(desc.MediaType) {
			b.tell(&swarmv1.ImageProgress{Id: shortLayer(desc.Digest), Step: word})
		}
	}
}

// shortLayerLen is how much of a layer's digest is shown, as in Docker.
const shortLayerLen = 12

func shortLayer(d digest.Digest) string {
	hex := d.Encoded()
	return hex[:min(shortLayerLen, len(hex))]
}

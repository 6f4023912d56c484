//go:build linux

package image

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/image/survey"
)

const (
	// branches is how many nodes get a large blob from one node; the others are sent on to these. So a blob spreads like a
	// tree, and the node that has it first sends it twice, not once for each node of the cluster.
	branches = 2
	// relaySize is what counts as large: smaller blobs cost less than being sent on.
	relaySize = 1 << 20
	// relayMemory is how long nodes are sent on to one that got a blob. Longer, and it may have left meanwhile.
	relayMemory = time.Minute
	// relayPatience bounds the wait for a blob that is on its way. It also ends two nodes' waiting for each other, which
	// takes two holders that fail in the middle of their transfers.
	relayPatience = 2 * time.Minute
	// relayBeat is how often a node that waits is told that it is not forgotten. Less than nodePatience.
	relayBeat = time.Second
)

// Queries of a request for a blob. A node that was sent on waits where it was sent; one that was sent on in vain asks
// directly, and is served.
const (
	queryRelayed = "relayed"
	queryDirect  = "direct"
)

type callerKey struct{}

// WithCaller says which node is at the other end of a connection to the Handler. Unknown callers are always served.
func WithCaller(ctx context.Context, nodeID string) context.Context {
	return context.WithValue(ctx, callerKey{}, nodeID)
}

func callerOf(ctx context.Context) string {
	id, _ := ctx.Value(callerKey{}).(string)
	return id
}

// relay remembers which nodes got which blobs from this one.
type relay struct {
	mu     sync.Mutex // guards what follows
	byBlob map[string]*branching
}

// branching is where one blob went.
type branching struct {
	nodes  []string
	next   int // of nodes: who the next one is sent on to
	active int // transfers
	used   time.Time
}

// place decides who serves a caller: this node, when elsewhere is "", which then says when it is done and whether the
// caller got everything; or another.
func (r *relay) place(digest, caller string, now time.Time) (elsewhere string, done func(now time.Time, whole bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for d, b := range r.byBlob {
		if b.active == 0 && now.Sub(b.used) > relayMemory {
			delete(r.byBlob, d)
		}
	}
	b := r.byBlob[digest]
	if b == nil {
		b = &branching{}
		if r.byBlob == nil {
			r.byBlob = map[string]*branching{}
		}
		r.byBlob[digest] = b
	}
	b.used = now
	if !slices.Contains(b.nodes, caller) {
		if len(b.nodes) == branches {
			elsewhere = b.nodes[b.next%branches]
			b.next++
			return elsewhere, nil
		}
		b.nodes = append(b.nodes, caller)
	}
	b.active++
	return "", func(now time.Time, whole bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		b.active--
		b.used = now
		if !whole {
			b.nodes = slices.DeleteFunc(b.nodes, func(id string) bool { return id == caller })
		}
	}
}

// arrivals are the blobs that pulls are fetching. They are served from the moment when they are whole, long before the
// image is unpacked.
type arrivals struct {
	mu     sync.Mutex // guards what follows
	byBlob map[string]*arrival
}

// arrival is one blob on its way, or here already.
type arrival struct {
	survey.Blob
	settled chan struct{} // closed when it is here, or will not be
	here    bool
}

// begin notes blobs. It gives what ends them, to be called when the pull has ended, and what says that one is here.
func (a *arrivals) begin(children []ocispec.Descriptor) (end func(), land func(digest string)) {
	own := map[string]*arrival{}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byBlob == nil {
		a.byBlob = map[string]*arrival{}
	}
	for _, c := range children {
		d := c.Digest.String()
		if a.byBlob[d] == nil { // else another pull fetches it
			own[d] = &arrival{Blob: survey.Blob{Size: c.Size, MediaType: c.MediaType}, settled: make(chan struct{})}
			a.byBlob[d] = own[d]
		}
	}
	end = func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		for d, x := range own {
			delete(a.byBlob, d)
			if !x.here {
				close(x.settled)
			}
		}
	}
	land = func(digest string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if x := own[digest]; x != nil && !x.here {
			x.here = true
			close(x.settled)
		}
	}
	return end, land
}

// coming is closed when a blob is here or will not be; nil: no pull fetches it.
func (a *arrivals) coming(digest string) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if x := a.byBlob[digest]; x != nil {
		return x.settled
	}
	return nil
}

// here is what is known of a blob that has arrived.
func (a *arrivals) here(digest string) (survey.Blob, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if x := a.byBlob[digest]; x != nil && x.here {
		return x.Blob, true
	}
	return survey.Blob{}, false
}

// await returns when settled is closed, or when the caller has waited long enough. The caller is told meanwhile that this
// node is there.
func await(w http.ResponseWriter, r *http.Request, settled <-chan struct{}) {
	ctx, cancel := context.WithTimeout(r.Context(), relayPatience)
	defer cancel()
	beat := time.NewTicker(relayBeat)
	defer beat.Stop()
	for {
		select {
		case <-settled:
			return
		case <-ctx.Done():
			return
		case <-beat.C:
			giveTime(w)
			w.WriteHeader(http.StatusProcessing)
		}
	}
}

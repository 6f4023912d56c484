//go:build linux

package peer

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
	// branches is how many nodes get a large blob from this node. Further nodes are redirected to
	// these.
	branches = 2
	// relaySize is the size in bytes from which a blob is large. Sending a smaller blob costs less
	// than a redirect.
	relaySize = 1 << 20
	// relayMemory is how long this node redirects requests for a blob to the nodes that have
	// received it. After a longer time those nodes may have left the cluster.
	relayMemory = time.Minute
	// relayTimeout bounds the wait of a request for a blob that is on its way to this node. It also
	// resolves a deadlock: if two nodes that have the blob fail during their transfers, two other
	// nodes may wait for each other.
	relayTimeout = 2 * time.Minute
	// relayBeat is how often a waiting node gets a sign of life. It is shorter than answerTimeout.
	relayBeat = time.Second
)

// Queries of a request for a blob. A relayed request was redirected, and waits until the blob
// arrives. A direct request is served without a redirect: it follows a redirect that did not
// deliver the blob.
const (
	queryRelayed = "relayed"
	queryDirect  = "direct"
)

type callerKey struct{}

// WithCaller returns a context of a request to Server.Handler that names the node that sent the
// request. Requests without a name are served and never redirected.
func WithCaller(ctx context.Context, nodeID string) context.Context {
	return context.WithValue(ctx, callerKey{}, nodeID)
}

func callerOf(ctx context.Context) string {
	id, _ := ctx.Value(callerKey{}).(string)
	return id
}

// relay remembers which nodes got which blobs from this node.
type relay struct {
	mu     sync.Mutex // guards byBlob
	byBlob map[string]*branching
}

// branching says to which nodes one blob was sent.
type branching struct {
	nodes  []string
	next   int // index in nodes of the next redirect
	active int // number of transfers
	used   time.Time
}

// place decides which node serves a caller: the node elsewhere, or this node if elsewhere is empty.
// In the second case the server calls done at the end of the transfer, with whole set if the caller
// got the whole blob.
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

// arrivals are the blobs that pulls are fetching. A blob is served as soon as it is complete, long
// before the image is unpacked.
type arrivals struct {
	mu     sync.Mutex // guards byBlob and the arrivals in it
	byBlob map[string]*arrival
}

// arrival is one blob of a pull in progress.
type arrival struct {
	survey.Blob
	done chan struct{} // closed when the blob is here, or when its pull has ended without it
	here bool
}

// Expect tells the server which blobs a pull fetches. The pull calls landed for each blob that is
// complete, and end when the pull has ended.
func (s *Server) Expect(blobs []ocispec.Descriptor) (end func(), landed func(digest string)) {
	return s.arrivals.begin(blobs)
}

// Arrived returns a blob that is complete and belongs to a pull in progress.
func (s *Server) Arrived(digest string) (survey.Blob, bool) { return s.arrivals.here(digest) }

func (a *arrivals) begin(children []ocispec.Descriptor) (end func(), landed func(digest string)) {
	own := map[string]*arrival{}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byBlob == nil {
		a.byBlob = map[string]*arrival{}
	}
	for _, c := range children {
		d := c.Digest.String()
		if a.byBlob[d] == nil { // If there is an arrival, another pull fetches the blob.
			own[d] = &arrival{Blob: survey.Blob{Size: c.Size, MediaType: c.MediaType}, done: make(chan struct{})}
			a.byBlob[d] = own[d]
		}
	}
	end = func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		for d, x := range own {
			delete(a.byBlob, d)
			if !x.here {
				close(x.done)
			}
		}
	}
	landed = func(digest string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if x := own[digest]; x != nil && !x.here {
			x.here = true
			close(x.done)
		}
	}
	return end, landed
}

// coming returns a channel that is closed when a blob is here, or its pull has ended without it. It
// returns nil if no pull fetches the blob.
func (a *arrivals) coming(digest string) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if x := a.byBlob[digest]; x != nil {
		return x.done
	}
	return nil
}

// here returns a blob that has arrived.
func (a *arrivals) here(digest string) (survey.Blob, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if x := a.byBlob[digest]; x != nil && x.here {
		return x.Blob, true
	}
	return survey.Blob{}, false
}

// await returns when done is closed, or after relayTimeout. During the wait it sends the caller
// a sign of life every relayBeat.
func await(w http.ResponseWriter, r *http.Request, done <-chan struct{}) {
	ctx, cancel := context.WithTimeout(r.Context(), relayTimeout)
	defer cancel()
	beat := time.NewTicker(relayBeat)
	defer beat.Stop()
	for {
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case <-beat.C:
			extendDeadline(w)
			w.WriteHeader(http.StatusProcessing)
		}
	}
}

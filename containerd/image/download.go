//go:build linux

package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"swarm/containerd/document"
	"swarm/containerd/image/progress"
	"swarm/containerd/image/survey"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// parallel blobs of one pull: enough to fill a link, few enough for a disk.
	parallel = 4
	// parallelPeers is how many nodes are asked at once whether they have an image.
	parallelPeers = 8
)

// download fetches one image's blobs into the content store, each from the first source that delivers what its digest
// says. Whose blobs it gets does not matter: nothing enters the store that its digest does not vouch for.
type download struct {
	order   order
	store   content.Store
	sources []source
	log     *slog.Logger
	board   *progress.Board
	tell    func(*swarmv1.ImageProgress) // may be nil
	room    func(bytes int64) error
	// coming is told which blobs will be fetched, and sets landed, which is told of each that is here.
	coming func([]ocispec.Descriptor)
	landed func(digest string)

	mu      sync.Mutex // guards what follows
	dropped map[source]bool
	peerHas bool // a peer has at least a part of the image
	doubt   bool // a peer could not be asked, and may have it
}

// run fetches what the platform needs of the image, and gives its root.
func (d *download) run(ctx context.Context) (ocispec.Descriptor, error) {
	root, err := d.root(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest, err := d.choose(ctx, root, 0)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	children, err := document.Children(ctx, d.store, manifest)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("manifest %s: %w: %w", manifest.Digest, err, errdefs.ErrInvalidArgument)
	}
	if err := d.fits(ctx, manifest, children); err != nil {
		return ocispec.Descriptor{}, err
	}
	all := children
	children = d.missing(ctx, all)
	var size int64
	for _, c := range children {
		size += c.Size
	}
	if size > 0 {
		if err := d.room(size); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	d.board = progress.NewBoard(d.tell, progress.Downloading, children)
	for _, c := range all {
		word := progress.Held
		if slices.ContainsFunc(children, func(m ocispec.Descriptor) bool { return m.Digest == c.Digest }) {
			word = progress.Waiting
		}
		d.board.Say(word, c)
	}
	d.coming(children)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, c := range children {
		group.Go(func() error {
			err := d.blob(ctx, c)
			if err == nil {
				d.landed(c.Digest.String())
				d.board.Say(progress.Downloaded, c)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return ocispec.Descriptor{}, err
	}
	return root, nil
}

// root fetches the index or manifest that the digest names; how long it is and what type it has is not known before.
func (d *download) root(ctx context.Context) (ocispec.Descriptor, error) {
	want := digest.Digest(d.order.ref.Digest)
	if data, err := document.Read(ctx, d.store, ocispec.Descriptor{Digest: want}); err == nil {
		return d.keepRoot(ctx, data)
	}
	data := d.askPeers(ctx, want)
	if data == nil {
		// Those who might have had it have been asked, and only the registry is left.
		err := d.each(ctx, func(src source) (err error) {
			data, err = readRoot(ctx, src, want)
			return err
		})
		if err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	return d.keepRoot(ctx, data)
}

// askPeers asks nodes for the root, several at once, because one that is gone takes seconds to say nothing. The first
// answer ends it. Nodes that do not have the image are not asked for its blobs. Nil: none has it.
func (d *download) askPeers(ctx context.Context, want digest.Digest) (data []byte) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var having []source // guarded by d.mu
	var group errgroup.Group
	group.SetLimit(parallelPeers)
	for _, src := range d.sources {
		if !src.peer() || src.last() || ctx.Err() != nil {
			continue
		}
		group.Go(func() error {
			got, err := readRoot(ctx, src, want)
			if err != nil && ctx.Err() != nil {
				return nil // not its fault
			}
			d.judge(src, err)
			d.mu.Lock()
			defer d.mu.Unlock()
			if err != nil {
				d.dropped[src] = true
			} else {
				data = got
				having = append(having, src)
				cancel()
			}
			return nil
		})
	}
	_ = group.Wait() // nobody returns an error
	// Those that answered come first when blobs are asked for.
	d.sources = slices.Concat(having, slices.DeleteFunc(slices.Clone(d.sources), func(s source) bool { return slices.Contains(having, s) }))
	return data
}

func readRoot(ctx context.Context, src source, want digest.Digest) ([]byte, error) {
	body, err := src.root(ctx, want)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, document.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", classed(err))
	}
	if got := want.Algorithm().FromBytes(data); got != want {
		return nil, fmt.Errorf("manifest %s: %w", want, errCorrupt)
	}
	return data, nil
}

func (d *download) keepRoot(ctx context.Context, data []byte) (ocispec.Descriptor, error) {
	mediaType, err := mediaTypeOf(data)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(d.order.ref.Digest), Size: int64(len(data))}
	if err := content.WriteBlob(ctx, d.store, remotes.MakeRefKey(ctx, desc), bytes.NewReader(data), desc); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("store manifest: %w", err)
	}
	return desc, nil
}

// mediaTypeOf is what a manifest says of itself; OCI lets it say nothing.
func mediaTypeOf(data []byte) (string, error) {
	var doc struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Config    json.RawMessage `json:"config"`
	}
	err := json.Unmarshal(data, &doc)
	switch {
	case err == nil && doc.MediaType == "" && len(doc.Manifests) > 0:
		doc.MediaType = ocispec.MediaTypeImageIndex
	case err == nil && doc.MediaType == "" && len(doc.Config) > 0:
		doc.MediaType = ocispec.MediaTypeImageManifest
	}
	if images.IsIndexType(doc.MediaType) || images.IsManifestType(doc.MediaType) {
		return doc.MediaType, nil
	}
	return "", errdefs.ErrInvalidArgument.WithMessage("the digest names something that is not an image: give the digest of a manifest or index")
}

// choose finds the platform's manifest, through the index if there is one. depth is how many indexes led to desc: a registry
// could go on for ever.
func (d *download) choose(ctx context.Context, desc ocispec.Descriptor, depth int) (ocispec.Descriptor, error) {
	if !images.IsIndexType(desc.MediaType) {
		return desc, nil
	}
	if depth > survey.MaxNesting {
		return ocispec.Descriptor{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("index %s is more than %d levels deep", desc.Digest, survey.MaxNesting))
	}
	all, err := document.Children(ctx, d.store, desc)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("index %s: %w: %w", desc.Digest, err, errdefs.ErrInvalidArgument)
	}
	var fit []ocispec.Descriptor
	var has []ocispec.Platform
	for _, m := range all {
		switch {
		case m.Platform == nil:
			fit = append(fit, m)
		case d.order.platform.Match(*m.Platform):
			fit = append(fit, m)
		case m.Platform.OS != "unknown":
			has = append(has, *m.Platform)
		}
	}
	if len(fit) == 0 {
		return ocispec.Descriptor{}, d.unfit(has)
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		switch {
		case a.Platform == nil || b.Platform == nil:
			return boolOrder(a.Platform == nil, b.Platform == nil)
		case d.order.platform.Less(*a.Platform, *b.Platform):
			return -1
		case d.order.platform.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	if err := d.document(ctx, fit[0]); err != nil {
		return ocispec.Descriptor{}, err
	}
	return d.choose(ctx, fit[0], depth+1)
}

// boolOrder puts false before true.
func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// document fetches a manifest, an index or a configuration, unless its descriptor says that it is too large to be read.
func (d *download) document(ctx context.Context, desc ocispec.Descriptor) error {
	if err := document.CheckSize(desc); err != nil {
		return err
	}
	return d.blob(ctx, desc)
}

// fits refuses a manifest whose configuration is for another platform.
func (d *download) fits(ctx context.Context, manifest ocispec.Descriptor, children []ocispec.Descriptor) error {
	for _, c := range children {
		if images.IsConfigType(c.MediaType) {
			if err := d.document(ctx, c); err != nil {
				return err
			}
		}
	}
	p, err := survey.PlatformOf(ctx, d.store, manifest, children)
	if err != nil {
		return fmt.Errorf("configuration of %s: %w: %w", manifest.Digest, err, errdefs.ErrInvalidArgument)
	}
	if !(survey.Result{Platforms: []ocispec.Platform{p}}).Serves(d.order.platform) {
		return d.unfit([]ocispec.Platform{p})
	}
	return nil
}

func (d *download) unfit(has []ocispec.Platform) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("it is not for %s: it is for %s", d.order.wanted, survey.Describe(has)))
}

// missing leaves out what the store has, and what is named twice.
func (d *download) missing(ctx context.Context, all []ocispec.Descriptor) []ocispec.Descriptor {
	var out []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	for _, c := range all {
		if seen[c.Digest] {
			continue
		}
		seen[c.Digest] = true
		if _, err := d.store.Info(ctx, c.Digest); err != nil || !d.leased(ctx, c) {
			out = append(out, c)
		}
	}
	return out
}

// leased puts a blob that is here under the pull's lease, by asking to write it. False: it has just gone.
func (d *download) leased(ctx context.Context, desc ocispec.Descriptor) bool {
	w, err := content.OpenWriter(ctx, d.store, content.WithRef(remotes.MakeRefKey(ctx, desc)), content.WithDescriptor(desc))
	if err == nil {
		_ = w.Close()
	}
	return errdefs.IsAlreadyExists(err)
}

// each tries sources, peers first, until one succeeds. A peer that is out of order or lies is not asked again. One that was
// slow is asked once more, after all others. The error is the registry's, or that of a slow peer.
func (d *download) each(ctx context.Context, try func(source) error) error {
	var verdict error
	tried := map[source]bool{}
	for src := d.next(tried); src != nil; src = d.next(tried) {
		tried[src] = true
		err := try(src)
		d.judge(src, err)
		var local *localError
		switch {
		case err == nil, ctx.Err() != nil, errors.As(err, &local):
			return err
		case errors.Is(err, errSlow):
			delete(tried, src)
			continue
		}
		verdict = err
	}
	if verdict == nil {
		verdict = fmt.Errorf("all sources have failed: %w", errdefs.ErrUnavailable)
	}
	return verdict
}

// next gives the source to be tried next, nil when there is none.
func (d *download) next(tried map[source]bool) (last source) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, src := range d.sources {
		switch {
		case tried[src] || d.dropped[src]:
		case !src.last():
			return src
		case last == nil:
			last = src
		}
	}
	return last
}

// judge remembers what a source did.
func (d *download) judge(src source, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	missing := errdefs.IsNotFound(err)
	if src.peer() {
		d.peerHas = d.peerHas || err == nil || errors.Is(err, errCorrupt)
		d.doubt = d.doubt || err != nil && !missing
	}
	if err == nil || missing || errors.Is(err, context.Canceled) {
		return
	}
	d.log.Info("image source failed", "source", src, "image", d.order.ref.Name, "err", err)
	if errors.Is(err, errSlow) || errors.Is(err, errStalled) || errors.Is(err, errCorrupt) {
		src.fault()
	}
	if src.peer() && !errors.Is(err, errSlow) {
		d.dropped[src] = true
	}
}

func (d *download) peers() peerState {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.peerHas:
		return peersHave
	case d.doubt:
		return peersUnknown
	}
	return peersHaveNot
}

//go:build linux

// Package transfer moves the blobs of one image: Download fetches them into the content store from
// several sources, Push sends them to a registry.
//
// It decides in which order it asks the sources, and when it gives a source up. It trusts no
// source: only content with the requested digest enters the store. Package image calls it, and
// itself pins tags, leases blobs and records images. A call has goroutines for its parallel
// transfers, which end before the call returns.
package transfer

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
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"swarm/containerd/document"
	"swarm/containerd/image/progress"
	"swarm/containerd/image/registry"
	"swarm/containerd/image/survey"
	"swarm/containerd/image/watchdog"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// parallel is how many blobs of an image are transferred at once: enough to fill a network
	// link, and few enough for a disk.
	parallel = 4
	// parallelPeers is how many nodes are asked at the same time whether they have an image.
	parallelPeers = 8
)

// Request says what to download.
type Request struct {
	// Image has a digest.
	Image spec.Image
	// Platform chooses the manifest of an index. PlatformName is for messages.
	Platform     platforms.MatchComparer
	PlatformName string
}

// Deps are live objects. All but Tell are needed.
type Deps struct {
	Log   *slog.Logger
	Store content.Store
	// Sources are asked in this order, except that deferred peers come last. They are comparable.
	Sources []Source
	// Tell receives reports of progress. It may be nil.
	Tell func(*swarmv1.ImageProgress)
	// Room returns an error when the disk has no room for a number of bytes.
	Room func(bytes int64) error
	// Expect is called once with the blobs that will be fetched. It returns a function that is
	// called for each of them when it is complete.
	Expect func([]ocispec.Descriptor) (landed func(digest string))
}

// Download fetches the blobs of one image into the content store, each from the first source that
// delivers the content that its digest names.
type Download struct {
	request Request
	deps    Deps
	board   *progress.Board
	sources []Source // peers that have the image come first, once Run has asked for the root

	mu      sync.Mutex      // guards the fields below
	dropped map[Source]bool // sources that are not asked again
	peerHas bool            // a peer has at least a part of the image
	unasked bool            // a peer that may have the image could not be asked
}

// NewDownload returns a download. Nothing is fetched yet.
func NewDownload(req Request, deps Deps) *Download {
	return &Download{
		request: req,
		deps:    deps,
		board:   progress.NewBoard(deps.Tell, "", nil),
		sources: deps.Sources,
		dropped: map[Source]bool{},
	}
}

// Run fetches the blobs that the platform needs, and returns the descriptor of the index or
// manifest that the image's digest names. ctx carries a lease, which protects the blobs. Run is
// called once.
//
// The error has one of the classes of registry.Class, or is a registry.LocalError.
func (d *Download) Run(ctx context.Context) (ocispec.Descriptor, error) {
	root, err := d.root(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest, err := d.chooseManifest(ctx, root, 0)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	children, err := document.Children(ctx, d.deps.Store, manifest)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("manifest %s: %w: %w", manifest.Digest, err, errdefs.ErrInvalidArgument)
	}
	if err := d.checkPlatform(ctx, manifest, children); err != nil {
		return ocispec.Descriptor{}, err
	}
	missing := d.missing(ctx, children)
	var size int64
	for _, c := range missing {
		size += c.Size
	}
	if size > 0 {
		if err := d.deps.Room(size); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	d.board = progress.NewBoard(d.deps.Tell, progress.Downloading, missing)
	for _, c := range children {
		word := progress.Held
		if slices.ContainsFunc(missing, func(m ocispec.Descriptor) bool { return m.Digest == c.Digest }) {
			word = progress.Waiting
		}
		d.board.Say(word, c)
	}
	landed := d.deps.Expect(missing)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, c := range missing {
		group.Go(func() error {
			err := d.blob(ctx, c)
			if err == nil {
				landed(c.Digest.String())
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

// root fetches the index or manifest that the digest names. Its size and type are not known before.
func (d *Download) root(ctx context.Context) (ocispec.Descriptor, error) {
	want := digest.Digest(d.request.Image.Digest)
	if data, err := document.Read(ctx, d.deps.Store, ocispec.Descriptor{Digest: want}); err == nil {
		return d.keepRoot(ctx, data)
	}
	data := d.askPeers(ctx, want)
	if data == nil {
		// All peers but the deferred ones have been asked. These and the registry are left.
		err := d.trySources(ctx, func(src Source) (err error) {
			data, err = readRoot(ctx, src, want)
			return err
		})
		if err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	return d.keepRoot(ctx, data)
}

// askPeers asks several nodes for the root at the same time, because a node that is down costs
// seconds. The first answer ends the search. A node that does not have the image is not asked for
// blobs later. askPeers returns nil if no node has the image.
func (d *Download) askPeers(ctx context.Context, want digest.Digest) (data []byte) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var having []Source // guarded by d.mu
	var group errgroup.Group
	group.SetLimit(parallelPeers)
	for _, src := range d.sources {
		peer, ok := src.(Peer)
		if !ok || peer.Deferred() || ctx.Err() != nil {
			continue
		}
		group.Go(func() error {
			got, err := readRoot(ctx, src, want)
			if err != nil && ctx.Err() != nil {
				return nil // The request was cancelled; it did not fail.
			}
			d.record(src, err)
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
	_ = group.Wait() // No function returns an error.
	// Nodes that answered are asked for blobs first.
	d.sources = slices.Concat(having, slices.DeleteFunc(slices.Clone(d.sources), func(s Source) bool { return slices.Contains(having, s) }))
	return data
}

func readRoot(ctx context.Context, src Source, want digest.Digest) ([]byte, error) {
	body, err := src.Root(ctx, want)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, document.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", registry.Class(err))
	}
	if got := want.Algorithm().FromBytes(data); got != want {
		return nil, fmt.Errorf("manifest %s: %w", want, errCorrupt)
	}
	return data, nil
}

func (d *Download) keepRoot(ctx context.Context, data []byte) (ocispec.Descriptor, error) {
	mediaType, err := mediaTypeOf(data)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(d.request.Image.Digest), Size: int64(len(data))}
	if err := content.WriteBlob(ctx, d.deps.Store, remotes.MakeRefKey(ctx, desc), bytes.NewReader(data), desc); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("store manifest: %w", err)
	}
	return desc, nil
}

// mediaTypeOf returns the media type of an index or manifest. OCI does not require that the
// document names its type. If it does not, mediaTypeOf finds the type by the document's fields.
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

// chooseManifest finds the platform's manifest, through the indexes that lead to it. depth is how
// many indexes led to desc. It is limited, because a registry could deliver ever more indexes.
func (d *Download) chooseManifest(ctx context.Context, desc ocispec.Descriptor, depth int) (ocispec.Descriptor, error) {
	if !images.IsIndexType(desc.MediaType) {
		return desc, nil
	}
	if depth > survey.MaxNesting {
		return ocispec.Descriptor{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("index %s is more than %d levels deep", desc.Digest, survey.MaxNesting))
	}
	all, err := document.Children(ctx, d.deps.Store, desc)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("index %s: %w: %w", desc.Digest, err, errdefs.ErrInvalidArgument)
	}
	var fit []ocispec.Descriptor
	var has []ocispec.Platform
	for _, m := range all {
		switch {
		case m.Platform == nil:
			fit = append(fit, m)
		case d.request.Platform.Match(*m.Platform):
			fit = append(fit, m)
		case m.Platform.OS != "unknown":
			has = append(has, *m.Platform)
		}
	}
	if len(fit) == 0 {
		return ocispec.Descriptor{}, d.wrongPlatform(has)
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		switch {
		case a.Platform == nil || b.Platform == nil:
			return boolOrder(a.Platform == nil, b.Platform == nil)
		case d.request.Platform.Less(*a.Platform, *b.Platform):
			return -1
		case d.request.Platform.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	if err := d.document(ctx, fit[0]); err != nil {
		return ocispec.Descriptor{}, err
	}
	return d.chooseManifest(ctx, fit[0], depth+1)
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

// document fetches a manifest, an index or a configuration. It returns ErrInvalidArgument if the
// descriptor says that the document is too large to be read.
func (d *Download) document(ctx context.Context, desc ocispec.Descriptor) error {
	if err := document.CheckSize(desc); err != nil {
		return err
	}
	return d.blob(ctx, desc)
}

// checkPlatform returns ErrInvalidArgument if the configuration of a manifest is for another
// platform.
func (d *Download) checkPlatform(ctx context.Context, manifest ocispec.Descriptor, children []ocispec.Descriptor) error {
	for _, c := range children {
		if images.IsConfigType(c.MediaType) {
			if err := d.document(ctx, c); err != nil {
				return err
			}
		}
	}
	p, err := survey.PlatformOf(ctx, d.deps.Store, manifest, children)
	if err != nil {
		return fmt.Errorf("configuration of %s: %w: %w", manifest.Digest, err, errdefs.ErrInvalidArgument)
	}
	if !(survey.Result{Platforms: []ocispec.Platform{p}}).Serves(d.request.Platform) {
		return d.wrongPlatform([]ocispec.Platform{p})
	}
	return nil
}

func (d *Download) wrongPlatform(has []ocispec.Platform) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("it is not for %s: it is for %s", d.request.PlatformName, survey.Describe(has)))
}

// missing returns the blobs that the store does not have, each once. It puts the blobs that the
// store has under the lease of ctx.
func (d *Download) missing(ctx context.Context, all []ocispec.Descriptor) []ocispec.Descriptor {
	var out []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	for _, c := range all {
		if seen[c.Digest] {
			continue
		}
		seen[c.Digest] = true
		_, err := d.deps.Store.Info(ctx, c.Digest)
		if err != nil || !d.takeOver(ctx, c) {
			out = append(out, c)
		}
	}
	return out
}

// takeOver puts a blob of the store under the lease of ctx: containerd does so when a writer is
// opened for a blob that exists. It returns false if the blob has just been removed.
func (d *Download) takeOver(ctx context.Context, desc ocispec.Descriptor) bool {
	w, err := content.OpenWriter(ctx, d.deps.Store, content.WithRef(remotes.MakeRefKey(ctx, desc)), content.WithDescriptor(desc))
	if err == nil {
		_ = w.Close()
	}
	return errdefs.IsAlreadyExists(err)
}

// trySources tries the sources in their order until one succeeds. A peer that fails or sends wrong
// content is not asked again. A peer that was slow is asked once more, after all others. The error
// is that of the last source, which is the registry or a slow peer.
func (d *Download) trySources(ctx context.Context, try func(Source) error) error {
	var lastErr error
	tried := map[Source]bool{}
	for src := d.next(tried); src != nil; src = d.next(tried) {
		tried[src] = true
		err := try(src)
		d.record(src, err)
		var local *registry.LocalError
		switch {
		case err == nil, ctx.Err() != nil, errors.As(err, &local):
			return err
		case errors.Is(err, watchdog.ErrSlow):
			delete(tried, src)
			continue
		}
		lastErr = err
	}
	if lastErr == nil {
		lastErr = fmt.Errorf("all sources have failed: %w", errdefs.ErrUnavailable)
	}
	return lastErr
}

// next returns the source to be tried next, or nil if there is none.
func (d *Download) next(tried map[Source]bool) (fallback Source) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, src := range d.sources {
		switch {
		case tried[src] || d.dropped[src]:
		case !isDeferred(src):
			return src
		case fallback == nil:
			fallback = src
		}
	}
	return fallback
}

// record evaluates the answer of a source: it updates what is known of the image on peers, and
// gives a peer up that has failed.
func (d *Download) record(src Source, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	missing := errdefs.IsNotFound(err)
	peer, isPeer := src.(Peer)
	if isPeer {
		d.peerHas = d.peerHas || err == nil || errors.Is(err, errCorrupt)
		d.unasked = d.unasked || err != nil && !missing
	}
	if err == nil || missing || errors.Is(err, context.Canceled) {
		return
	}
	d.deps.Log.Info("image source failed", "source", src, "image", d.request.Image.Name, "err", err)
	if errors.Is(err, watchdog.ErrSlow) || errors.Is(err, watchdog.ErrStalled) || errors.Is(err, errCorrupt) {
		if isPeer {
			peer.Defer()
		}
	}
	if isPeer && !errors.Is(err, watchdog.ErrSlow) {
		d.dropped[src] = true
	}
}

// Peers says what the download has learned about the image on other nodes.
func (d *Download) Peers() registry.PeerState {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.peerHas:
		return registry.PeersHave
	case d.unasked:
		return registry.PeersUnknown
	}
	return registry.PeersHaveNot
}

// Finish reports that all layers are ready, after the caller has unpacked the image.
func (d *Download) Finish() { d.board.SayAll(progress.Pulled) }

//go:build linux

package image

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/image/progress"
	"swarm/containerd/image/registry"
	"swarm/containerd/image/transfer"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// resolveTimeout bounds the request for the digest that a tag names now.
const resolveTimeout = 15 * time.Second

// pullRequest is a parsed request for a pull.
type pullRequest struct {
	ref      spec.Image
	auth     registry.Credentials
	platform platforms.MatchComparer
	wanted   string // the platform as text, for messages
	newest   bool   // the caller gave no digest, so ref has the digest that the tag names now
}

// fetchKey identifies the pulls that share one fetch. It includes the credentials, because a
// registry may refuse to one caller what it gives to another.
type fetchKey struct {
	ref    spec.Image
	wanted string
	auth   registry.Credentials
}

// Pull makes an image ready for containers. It uses what this node holds, and fetches the rest from
// other nodes, or from the registry if no node delivers it. For a tag without a digest, Pull asks
// the registry for the digest, unless the image was loaded on this node. If the registry does not
// answer, Pull uses the image that this node holds under the name. tell receives reports of
// progress and may be nil.
//
// For errors, see registry.PullError; ErrRuntimeAway: containerd does not answer.
func (s *Store) Pull(ctx context.Context, req engine.PullRequest, tell func(*swarmv1.ImageProgress)) (*swarmv1.Image, error) {
	o, err := s.parseRequest(req)
	if err != nil {
		return nil, err
	}
	o.newest = o.ref.Digest == ""
	if o.newest {
		if o.ref.Digest, err = s.resolveTag(ctx, o); err != nil {
			return nil, err
		}
	}
	if image, err := s.ready(ctx, o); image != nil || err != nil {
		return image, err
	}
	err = s.fetches.do(ctx, fetchKey{o.ref, o.wanted, o.auth}, tell, func(ctx context.Context, tell func(*swarmv1.ImageProgress)) error {
		if image, err := s.ready(ctx, o); image != nil || err != nil {
			return err // Another fetch has just completed the image.
		}
		return s.fetch(namespaced(ctx), o, tell)
	})
	if err != nil {
		return nil, err
	}
	image, err := s.ready(ctx, o)
	if err == nil && image == nil {
		err = errdefs.ErrUnavailable.WithMessage("it was removed while it was pulled")
	}
	return image, err
}

func (s *Store) parseRequest(req engine.PullRequest) (pullRequest, error) {
	ref, err := spec.ParseImage(req.Ref)
	if err != nil {
		return pullRequest{}, err
	}
	if ref.Digest != "" {
		if _, err := validDigest(ref.Digest); err != nil {
			return pullRequest{}, err
		}
	}
	o := pullRequest{ref: ref, platform: s.platform, wanted: cmp.Or(req.Platform, platforms.DefaultString())}
	if req.Platform != "" {
		p, err := platforms.Parse(req.Platform)
		if err != nil {
			return pullRequest{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("platform %q is not one: write OS/ARCH[/VARIANT], for example linux/amd64", req.Platform))
		}
		o.platform = platforms.Only(p)
	}
	o.auth, err = registry.ParseCredentials(req.Auth)
	return o, err
}

// resolveTag returns the digest of a tag.
func (s *Store) resolveTag(ctx context.Context, o pullRequest) (string, error) {
	held, err := s.find(ctx, o.ref.Name)
	if err != nil && !errdefs.IsNotFound(err) {
		return "", engine.Away(err)
	}
	if held != nil && held.loaded {
		return held.digest, nil
	}
	ask, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	digest, err := s.registry.Digest(ask, o.ref, o.auth)
	if err == nil {
		return digest, nil
	}
	if held != nil && ctx.Err() == nil {
		s.log.Info("registry does not answer for a tag, using the image on this node", "image", o.ref.Name, "digest", held.digest, "err", err)
		return held.digest, nil
	}
	return "", registry.PullError(o.ref, err, registry.PeersHaveNot)
}

// ready returns an image if this node holds it completely, and records the name of the request for
// it. It returns nil if the image must be fetched.
func (s *Store) ready(ctx context.Context, o pullRequest) (*swarmv1.Image, error) {
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at what is held: %w", engine.Away(err))
	}
	e := c.images[o.ref.Digest]
	if e == nil || !e.Serves(o.platform) {
		return nil, nil
	}
	names, err := recordsOf(o.ref, e.target.Digest)
	if err != nil {
		return nil, err
	}
	if c.lacks(names, o) {
		if err := s.keep(namespaced(ctx), o.ref, e.target, false); err != nil {
			return nil, fmt.Errorf("record it: %w", engine.Away(err))
		}
	}
	// Another client of containerd may have removed the record.
	if _, err := s.client.ImageService().Get(namespaced(ctx), names[0]); errdefs.IsNotFound(err) {
		s.invalidate()
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("look at what is held: %w", engine.Away(err))
	}
	return e.proto(o.ref.Name), nil
}

// lacks reports whether a record must be written for an image: one of the names has no record, or
// the tag's record has another digest and the request is for the newest one. A request with a
// digest does not move a tag, because two services with two digests of one tag would move it back
// and forth.
func (c *catalog) lacks(names []string, o pullRequest) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		digest, known := c.records[name]
		return !known || o.newest && digest != o.ref.Digest
	})
}

// room returns an error if the disk has no room for a number of bytes.
func (s *Store) room(bytes int64) error {
	if s.deps.Room == nil {
		return nil
	}
	if err := s.deps.Room(bytes); err != nil {
		return &registry.LocalError{Err: err}
	}
	return nil
}

// sources lists the sources of a pull: nodes in random order, so that many pulls spread over them,
// and then the registry.
func (s *Store) sources(ctx context.Context, o pullRequest) []transfer.Source {
	var out []transfer.Source
	if s.peers != nil {
		for _, id := range s.deps.Peers(ctx, o.ref.Digest) {
			out = append(out, s.peers.Source(id))
		}
		rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	}
	return append(out, s.registry.Source(o.ref, o.auth))
}

// fetch downloads the missing blobs of an image, unpacks the image and records it. Blobs of a
// failed attempt are kept for the next one.
func (s *Store) fetch(ctx context.Context, o pullRequest, tell func(*swarmv1.ImageProgress)) (err error) {
	sources := s.sources(ctx, o)
	ctx, endPull, err := s.beginPull(ctx, o.ref.Digest)
	if err != nil {
		return engine.Away(err)
	}
	// Expect is called after the download has put the blobs of earlier attempts under its lease.
	takenOver, endExpect := false, func() {}
	defer func() {
		endExpect()
		endPull(err, takenOver)
	}()
	d := transfer.NewDownload(transfer.Request{Image: o.ref, Platform: o.platform, PlatformName: o.wanted}, transfer.Deps{
		Log:     s.log,
		Store:   s.client.ContentStore(),
		Sources: sources,
		Tell:    tell,
		Room:    s.room,
		Expect: func(blobs []ocispec.Descriptor) (landed func(string)) {
			takenOver = true
			endExpect, landed = s.server.Expect(blobs)
			return landed
		},
	})
	target, err := d.Run(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return registry.PullError(o.ref, err, d.Peers())
	}
	progress.NewMeter("unpack", 0, tell).Flush()
	if err := s.keep(ctx, o.ref, target, false); err != nil {
		return fmt.Errorf("keep it: %w", engine.Away(err))
	}
	d.Finish()
	s.log.Info("image pulled", "image", o.ref.Name, "digest", o.ref.Digest)
	return nil
}

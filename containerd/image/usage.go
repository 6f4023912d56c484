//go:build linux

package image

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"

	"swarm/containerd/document"
	"swarm/worker/engine"
)

// Holdings lists the complete images, each with the bytes that it takes: its blobs, and the
// snapshots of its layers. bytes is the sum, in which shared parts count once.
func (s *Store) Holdings(ctx context.Context) (out []engine.Holding, bytes int64, err error) {
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("list images: %w", err)
	}
	ctx = namespaced(ctx)
	records, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("list images: %w", err)
	}
	since := map[string]time.Time{} // by digest: of the newest record
	for _, r := range records {
		if d := r.Target.Digest.String(); since[d].Before(r.UpdatedAt) {
			since[d] = r.UpdatedAt
		}
	}
	users, err := s.users(ctx, c)
	if err != nil {
		return nil, 0, err
	}
	parts := map[string]map[string]int64{}
	sharers := map[string]int{}
	for d, e := range c.images {
		h := engine.Holding{Image: e.proto(e.name()), Since: since[d], Containers: users[d]}
		if parts[d], h.Labels, err = s.parts(ctx, e); err != nil {
			return nil, 0, fmt.Errorf("image %s: %w", e.name(), err)
		}
		for part, size := range parts[d] {
			sharers[part]++
			if sharers[part] == 1 {
				bytes += size
			}
		}
		out = append(out, h)
	}
	for i := range out {
		for part, size := range parts[out[i].Image.GetDigest()] {
			out[i].Size += size
			if sharers[part] == 1 {
				out[i].Unique += size
			}
		}
	}
	return out, bytes, nil
}

// users counts the containers that were made from each digest.
func (s *Store) users(ctx context.Context, c *catalog) (map[string]int, error) {
	all, err := s.client.ContainerService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	users := map[string]int{}
	for _, u := range all {
		users[c.records[u.Image]]++
	}
	return users, nil
}

// parts returns the sizes in bytes of an image's blobs and, if it is unpacked here, of its
// snapshots; and the labels in its configuration.
func (s *Store) parts(ctx context.Context, e *entry) (map[string]int64, map[string]string, error) {
	parts := map[string]int64{}
	for d, b := range e.Blobs {
		parts[d] = b.Size
	}
	if !e.Serves(s.platform) {
		return parts, nil, nil
	}
	config, err := document.ConfigOf(ctx, s.client.ContentStore(), e.target, s.platform)
	if errdefs.IsNotFound(err) { // It was just removed.
		return parts, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for _, chain := range identity.ChainIDs(config.RootFS.DiffIDs) {
		u, err := s.client.SnapshotService(s.cfg.Snapshotter).Usage(ctx, chain.String())
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		parts["snapshot "+chain.String()] = u.Size
	}
	return parts, config.Config.Labels, nil
}

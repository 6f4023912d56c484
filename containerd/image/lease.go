//go:build linux

package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
)

const (
	// labelPull marks the leases of a digest's pulls.
	labelPull = "io.swarm.pull"
	// keepPartial is how long a failed pull's blobs wait for the next attempt.
	keepPartial = 6 * time.Hour
)

// leased begins a pull of a digest: what it writes stays until release, which is told how the pull
// ended, and whether it got as far as to lease what earlier attempts had got. Then their leases go;
// those of pulls under way stay, whoever asked for them.
func (s *Store) leased(ctx context.Context, digest string) (_ context.Context, release func(err error, reached bool), _ error) {
	id := "pull-" + rand.Text()
	s.mu.Lock()
	if s.pulling == nil {
		s.pulling = map[string]bool{}
	}
	s.pulling[id] = true
	s.mu.Unlock()
	over := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.pulling, id)
	}
	lease, err := s.client.LeasesService().Create(ctx, leases.WithID(id), leases.WithExpiration(keepPartial), leases.WithLabel(labelPull, digest))
	if err != nil {
		over()
		return nil, nil, fmt.Errorf("lease: %w", err)
	}
	cleanup := context.WithoutCancel(ctx)
	return leases.WithLease(ctx, id), func(err error, reached bool) {
		var derr error
		switch {
		case err == nil:
			derr = s.dropLeases(cleanup, digest, "")
			fallthrough
		case !reached:
			derr = errors.Join(derr, s.dropLease(cleanup, lease))
		default:
			derr = s.dropLeases(cleanup, digest, id)
		}
		over()
		if derr != nil {
			s.log.Warn("leases of a pull expire by themselves", "digest", digest, "err", derr)
		}
	}, nil
}

// dropLeases deletes the leases of a digest's earlier pulls but one.
func (s *Store) dropLeases(ctx context.Context, digest, keep string) error {
	all, err := s.client.LeasesService().List(ctx, fmt.Sprintf("labels.%q==%q", labelPull, digest))
	for _, l := range all {
		s.mu.Lock()
		busy := s.pulling[l.ID]
		s.mu.Unlock()
		if !busy && l.ID != keep {
			err = errors.Join(err, s.dropLease(ctx, l))
		}
	}
	return err
}

func (s *Store) dropLease(ctx context.Context, l leases.Lease) error {
	if err := s.client.LeasesService().Delete(ctx, l); !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

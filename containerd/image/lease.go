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
	// labelPull is the label of a lease, whose value is the digest that is pulled.
	labelPull = "io.swarm.pull"
	// keepPartial is how long the blobs of a failed pull are kept for the next attempt.
	keepPartial = 6 * time.Hour
)

// beginPull creates a lease of containerd for a pull of a digest. The lease protects everything
// that is written with the returned context. At the end of the pull the caller calls end, with the
// error of the pull, and with takenOver if the new lease also protects the blobs of earlier
// attempts. end deletes the leases that are not needed any more:
//
//   - After a success it deletes the new lease and those of earlier attempts, because a record
//     protects the blobs.
//   - After a failure with takenOver it deletes those of earlier attempts.
//   - After any other failure it deletes the new lease, which protects nothing.
//
// The leases of other pulls in progress stay.
func (s *Store) beginPull(ctx context.Context, digest string) (_ context.Context, end func(err error, takenOver bool), _ error) {
	id := "pull-" + rand.Text()
	s.mu.Lock()
	if s.pulling == nil {
		s.pulling = map[string]bool{}
	}
	s.pulling[id] = true
	s.mu.Unlock()
	ended := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.pulling, id)
	}
	lease, err := s.client.LeasesService().Create(ctx, leases.WithID(id), leases.WithExpiration(keepPartial), leases.WithLabel(labelPull, digest))
	if err != nil {
		ended()
		return nil, nil, fmt.Errorf("lease: %w", err)
	}
	cleanup := context.WithoutCancel(ctx)
	return leases.WithLease(ctx, id), func(err error, takenOver bool) {
		var derr error
		if err == nil || takenOver {
			derr = s.dropLeases(cleanup, digest, id)
		}
		if err == nil || !takenOver {
			derr = errors.Join(derr, s.dropLease(cleanup, lease))
		}
		ended()
		if derr != nil {
			s.log.Warn("leases of a pull were not deleted, and expire later", "digest", digest, "err", derr)
		}
	}, nil
}

// dropLeases deletes the leases of earlier pulls of a digest, except for the lease keep.
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

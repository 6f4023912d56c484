package storage

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/assignment"
	"swarm/worker/engine"
	"swarm/worker/retry"
)

// Copies fetches the images of which the managers want this node to keep a copy. It fetches one
// image at a time, so that these copies take little bandwidth from the pulls of tasks.
type Copies struct {
	log     *slog.Logger
	images  engine.Images
	objects *assignment.Set
	wake    chan struct{} // one token: the assigned images have changed
}

// NewCopies returns a Copies that reads the assigned images from objects. It does nothing before
// Run.
func NewCopies(log *slog.Logger, images engine.Images, objects *assignment.Set) *Copies {
	return &Copies{log: log, images: images, objects: objects, wake: make(chan struct{}, 1)}
}

// Wake makes Run look at the assigned images again. It does not block.
func (c *Copies) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run fetches missing images until ctx ends. It retries after 1 s, doubling to 1 min, while images
// are missing. It returns nil.
func (c *Copies) Run(ctx context.Context) error {
	failures := 0
	retryTimer := time.NewTimer(0)
	defer retryTimer.Stop()
	for {
		select {
		case <-c.wake:
		case <-retryTimer.C:
		case <-ctx.Done():
			return nil
		}
		retryTimer.Stop()
		err := c.fetch(ctx)
		if err == nil {
			failures = 0
			continue
		}
		c.log.Warn("fetch image to keep", "err", err)
		retryTimer.Reset(retry.Backoff(failures, time.Second, time.Minute))
		failures++
	}
}

// fetch pulls the assigned images that the node does not hold. It tries all of them, and returns
// the last error.
func (c *Copies) fetch(ctx context.Context) error {
	assigned := c.objects.List(swarmv1.AssignmentRef_IMAGE)
	if len(assigned) == 0 {
		return nil
	}
	held, err := c.images.List(ctx)
	if err != nil {
		return err
	}
	var lastErr error
	for _, a := range assigned {
		image := a.GetImage()
		if slices.ContainsFunc(held, func(h *swarmv1.Image) bool { return h.Digest == image.Digest }) {
			continue
		}
		name, _, _ := strings.Cut(image.Name, "@")
		if _, err := c.images.Pull(ctx, engine.PullRequest{Ref: name + "@" + image.Digest}, nil); err != nil {
			lastErr = err
		}
	}
	return lastErr
}

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

// Copies fetches the images of which the managers want this node to keep a copy, one after another,
// so that copying images through the cluster does not compete with the pulls of tasks.
type Copies struct {
	log     *slog.Logger
	images  engine.Images
	objects *assignment.Set
	wake    chan struct{} // one token: look again
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

// Run fetches missing images until ctx ends. It retries those that failed after 1 s, doubling to 1
// min. It returns nil.
func (c *Copies) Run(ctx context.Context) error {
	failures := 0
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-c.wake:
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
		again.Stop()
		missing, err := c.fetch(ctx)
		if !missing {
			failures = 0
			continue
		}
		c.log.Warn("fetch image to keep", "err", err)
		again.Reset(retry.Backoff(failures, time.Second, time.Minute))
		failures++
	}
}

// fetch pulls the images that are assigned and not held. If missing, at least one is still not
// held, because of err.
func (c *Copies) fetch(ctx context.Context) (missing bool, err error) {
	assigned := c.objects.List(swarmv1.AssignmentRef_IMAGE)
	if len(assigned) == 0 {
		return false, nil
	}
	held, err := c.images.List(ctx)
	if err != nil {
		return true, err
	}
	for _, a := range assigned {
		image := a.GetImage()
		if slices.ContainsFunc(held, func(h *swarmv1.Image) bool { return h.Digest == image.Digest }) {
			continue
		}
		name, _, _ := strings.Cut(image.Name, "@")
		if _, perr := c.images.Pull(ctx, engine.PullRequest{Ref: name + "@" + image.Digest}, nil); perr != nil {
			missing, err = true, perr
		}
	}
	return missing, err
}

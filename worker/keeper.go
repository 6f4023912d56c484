package worker

import (
	"context"
	"slices"
	"strings"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/retry"
)

// imageKeeper fetches the loaded images that this node is to keep a copy of, one after another, so that copying an image
// through the cluster does not compete with the tasks' own pulls. Managers choose which node keeps which image.
type imageKeeper struct {
	w    *Worker
	wake chan struct{} // one token: look again
}

func (k *imageKeeper) look() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// run fetches until ctx ends. What fails is tried again, also when nothing changes.
func (k *imageKeeper) run(ctx context.Context) error {
	failures := 0
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-k.wake:
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
		again.Stop()
		missing, err := k.fetch(ctx)
		if !missing {
			failures = 0
			continue
		}
		k.w.deps.Log.Warn("fetch image to keep", "err", err)
		again.Reset(retry.Backoff(failures, time.Second, time.Minute))
		failures++
	}
}

// fetch pulls what is assigned and not held. missing: something is still not here, because of err.
func (k *imageKeeper) fetch(ctx context.Context) (missing bool, err error) {
	assigned := k.w.objects.List(swarmv1.AssignmentRef_IMAGE)
	if len(assigned) == 0 {
		return false, nil
	}
	held, err := k.w.deps.Images.List(ctx)
	if err != nil {
		return true, err
	}
	for _, a := range assigned {
		image := a.GetImage()
		if slices.ContainsFunc(held, func(h *swarmv1.Image) bool { return h.Digest == image.Digest }) {
			continue
		}
		name, _, _ := strings.Cut(image.Name, "@")
		if _, perr := k.w.deps.Images.Pull(ctx, engine.PullRequest{Ref: name + "@" + image.Digest}, nil); perr != nil {
			missing, err = true, perr
		}
	}
	return missing, err
}

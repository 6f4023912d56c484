package storage

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

const (
	// cleanEvery is between two looks.
	cleanEvery = time.Minute
	// freshImage is how long an image stays in any case: somebody is about to use it.
	freshImage = 5 * time.Minute
)

// Run cleans the disk until ctx ends: every minute, and when the disk has filled or emptied. It begins
// once the managers have said which tasks the node has. It returns nil.
func (d *Disk) Run(ctx context.Context) error {
	if d.deps.Storage == nil || d.deps.Space == nil {
		return nil
	}
	select {
	case <-d.deps.Synced:
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(cleanEvery)
	defer tick.Stop()
	for {
		changed := d.deps.Space.Changed()
		if err := d.clean(ctx); err != nil && ctx.Err() == nil {
			d.deps.Log.Warn("clean up the disk", "err", err)
		}
		select {
		case <-tick.C:
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// clean removes what is old, and, when the disk is too full, images and then logs that are not, the oldest first.
func (d *Disk) clean(ctx context.Context) error {
	if _, _, err := d.removeDead(ctx); err != nil {
		return err
	}
	idle, err := d.idle(ctx)
	if err != nil {
		return err
	}
	var old []engine.Holding
	if d.cfg.ImageAge > 0 {
		old = slices.DeleteFunc(slices.Clone(idle), func(h engine.Holding) bool {
			return time.Since(d.lastUse(h)) < d.cfg.ImageAge || time.Since(d.began) < d.cfg.ImageAge
		})
	}
	for _, h := range old {
		if _, err := d.remove(ctx, h); err != nil {
			return err
		}
	}
	used := d.deps.Space.Space().UsedPercent()
	was := d.filling
	if d.filling = used >= d.cfg.Start; !d.filling {
		return nil
	}
	if !was {
		d.deps.Log.Info("the disk fills: images and logs that nothing needs are removed", "used", used, "until", d.cfg.Stop)
	}
	return d.relieve(ctx, idle)
}

// relieve removes until the disk is empty enough.
func (d *Disk) relieve(ctx context.Context, idle []engine.Holding) error {
	enough := func() bool {
		space, err := d.deps.Space.Now()
		return err != nil || space.UsedPercent() < d.cfg.Stop
	}
	for _, h := range idle {
		if enough() {
			return nil
		}
		if _, err := d.remove(ctx, h); err != nil {
			return err
		}
	}
	for _, l := range d.logSizes() {
		if !l.Retired.IsZero() && !enough() {
			d.deps.Logs.Discard(l.TaskID)
		}
	}
	return nil
}

// idle lists the images that may be removed as far as this node knows, those unused for the longest time first.
func (d *Disk) idle(ctx context.Context) ([]engine.Holding, error) {
	held, _, err := d.deps.Storage.Holdings(ctx)
	if err != nil {
		return nil, err
	}
	d.forget(held)
	var idle []engine.Holding
	for _, h := range held {
		digest := h.Image.GetDigest()
		switch {
		case h.Containers > 0 || d.uses(digest):
			d.touch(digest)
		case !d.keeps(digest) && time.Since(d.lastUse(h)) >= freshImage:
			idle = append(idle, h)
		}
	}
	slices.SortFunc(idle, func(a, b engine.Holding) int { return d.lastUse(a).Compare(d.lastUse(b)) })
	return idle, nil
}

// noteEvery is how exactly it is written down when an image was used.
const noteEvery = time.Hour

// touch notes that an image is used. It is written down too: a restart of the daemon must neither make the image look
// unused nor begin its time anew.
func (d *Disk) touch(digest string) {
	now := time.Now()
	d.mu.Lock()
	before := d.used[digest]
	d.used[digest] = now
	d.mu.Unlock()
	if !before.Truncate(noteEvery).Equal(now.Truncate(noteEvery)) {
		d.deps.State.SetImageUse(digest, now)
	}
}

// forget drops what is known of images that are gone.
func (d *Disk) forget(held []engine.Holding) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for digest := range d.used {
		if !slices.ContainsFunc(held, func(h engine.Holding) bool { return h.Image.GetDigest() == digest }) {
			delete(d.used, digest)
			d.deps.State.ForgetImage(digest)
		}
	}
}

// lastUse is when an image was last seen to be used, or came.
func (d *Disk) lastUse(h engine.Holding) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at := d.used[h.Image.GetDigest()]; at.After(h.Since) {
		return at
	}
	return h.Since
}

// releasePatience bounds the wait for a manager.
const releasePatience = 10 * time.Second

// remove asks a manager, and removes the image if it may.
func (d *Disk) remove(ctx context.Context, h engine.Holding) (removed bool, err error) {
	digest := h.Image.GetDigest()
	granted, err := d.release(ctx, digest, false)
	if err != nil || !granted {
		return false, err
	}
	err = d.deps.Images.Remove(ctx, digest)
	switch {
	case err == nil:
		d.deps.Log.Info("image removed, since nothing uses it", "image", h.Image.GetName(), "digest", digest, "unused", d.lastUse(h))
		return true, nil
	case errdefs.IsNotFound(err):
		return true, nil
	}
	if _, uerr := d.release(context.WithoutCancel(ctx), digest, true); uerr != nil {
		return false, fmt.Errorf("%w; and the managers do not know that the image stays: %w", err, uerr)
	}
	if errdefs.IsFailedPrecondition(err) { // a container was made from it this moment
		return false, nil
	}
	return false, err
}

// release asks the manager that this node is in contact with.
func (d *Disk) release(ctx context.Context, digest string, undo bool) (granted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, releasePatience)
	defer cancel()
	conn, err := d.deps.Conn()
	if err != nil {
		return false, err
	}
	answer, err := swarmv1.NewDisksClient(conn).Release(ctx, &swarmv1.ReleaseRequest{Digests: []string{digest}, Undo: undo})
	if err != nil {
		return false, fmt.Errorf("ask whether image %s may go: %w", digest, err)
	}
	return slices.Contains(answer.GetGranted(), digest), nil
}

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
	// cleanInterval is the time between two looks at the disk.
	cleanInterval = time.Minute
	// minImageAge is how long an image stays after it was fetched or last used, because a task may
	// be about to use it.
	minImageAge = 5 * time.Minute
)

// Run cleans the disk until ctx ends: every minute, and when the disk has filled or emptied. It
// begins once the managers have said which tasks the node has. It returns nil.
func (d *Disk) Run(ctx context.Context) error {
	if d.deps.Storage == nil || d.deps.Space == nil {
		return nil
	}
	select {
	case <-d.deps.Synced:
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(cleanInterval)
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

// clean removes old images, and containers that belong to no task. If the disk is too full, it also
// removes younger images and then logs, the oldest first.
func (d *Disk) clean(ctx context.Context) error {
	if _, _, err := d.removeDead(ctx); err != nil {
		return err
	}
	idle, err := d.unusedImages(ctx)
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
	before := d.filling
	d.filling = used >= d.cfg.Start
	if !d.filling {
		return nil
	}
	if !before {
		d.deps.Log.Info("disk is filling up: removing images and logs that nothing needs", "used", used, "until", d.cfg.Stop)
	}
	return d.freeSpace(ctx, idle)
}

// freeSpace removes images, and then logs of former tasks, until the disk is less full than
// cfg.Stop.
func (d *Disk) freeSpace(ctx context.Context, idle []engine.Holding) error {
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

// unusedImages lists the images that this node does not need, those unused for the longest time
// first.
func (d *Disk) unusedImages(ctx context.Context) ([]engine.Holding, error) {
	held, _, err := d.deps.Storage.Holdings(ctx)
	if err != nil {
		return nil, err
	}
	d.forgetGone(held)
	var idle []engine.Holding
	for _, h := range held {
		digest := h.Image.GetDigest()
		switch {
		case h.Containers > 0 || d.usesImage(digest):
			d.noteUse(digest)
		case !d.keepsImage(digest) && time.Since(d.lastUse(h)) >= minImageAge:
			idle = append(idle, h)
		}
	}
	slices.SortFunc(idle, func(a, b engine.Holding) int { return d.lastUse(a).Compare(d.lastUse(b)) })
	return idle, nil
}

// useGranularity is how often noteUse writes to state.db for an image that stays in use.
const useGranularity = time.Hour

// noteUse records that an image is in use now. state.db keeps the time, so that a restart of the
// daemon does not change for how long the image has been unused.
func (d *Disk) noteUse(digest string) {
	now := time.Now()
	d.mu.Lock()
	before := d.used[digest]
	d.used[digest] = now
	d.mu.Unlock()
	if !before.Truncate(useGranularity).Equal(now.Truncate(useGranularity)) {
		d.deps.State.SetImageUse(digest, now)
	}
}

// forgetGone deletes the times of use of images that the node does not hold any more.
func (d *Disk) forgetGone(held []engine.Holding) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for digest := range d.used {
		if !slices.ContainsFunc(held, func(h engine.Holding) bool { return h.Image.GetDigest() == digest }) {
			delete(d.used, digest)
			d.deps.State.ForgetImage(digest)
		}
	}
}

// lastUse returns when an image was last seen in use, or when it was fetched if that is later.
func (d *Disk) lastUse(h engine.Holding) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at := d.used[h.Image.GetDigest()]; at.After(h.Since) {
		return at
	}
	return h.Since
}

// releaseTimeout bounds the wait for a manager's answer.
const releaseTimeout = 10 * time.Second

// remove asks a manager for permission to remove the image, and removes the image if the manager
// grants it. If the removal fails, remove tells the managers that the node keeps the image.
func (d *Disk) remove(ctx context.Context, h engine.Holding) (removed bool, err error) {
	digest := h.Image.GetDigest()
	granted, err := d.release(ctx, digest, false)
	if err != nil || !granted {
		return false, err
	}
	err = d.deps.Images.Remove(ctx, digest)
	switch {
	case err == nil:
		d.deps.Log.Info("removed an image that nothing uses", "image", h.Image.GetName(), "digest", digest, "unused", d.lastUse(h))
		return true, nil
	case errdefs.IsNotFound(err):
		return true, nil
	}
	if _, uerr := d.release(context.WithoutCancel(ctx), digest, true); uerr != nil {
		return false, fmt.Errorf("%w; and the managers could not be told that the node keeps the image: %w", err, uerr)
	}
	if errdefs.IsFailedPrecondition(err) { // A container was made from the image just now.
		return false, nil
	}
	return false, err
}

// release asks the manager of the session for permission to remove an image. With undo it returns
// an earlier permission: the node keeps the image.
func (d *Disk) release(ctx context.Context, digest string, undo bool) (granted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	conn, err := d.deps.Conn()
	if err != nil {
		return false, err
	}
	answer, err := swarmv1.NewDisksClient(conn).Release(ctx, &swarmv1.ReleaseRequest{Digests: []string{digest}, Undo: undo})
	if err != nil {
		return false, fmt.Errorf("ask a manager whether image %s may be removed: %w", digest, err)
	}
	return slices.Contains(answer.GetGranted(), digest), nil
}

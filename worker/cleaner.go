package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/disk"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/state"
)

// Clean bounds what stays on the disk though nothing needs it.
type Clean struct {
	// Start and Stop are how full the disk is, in percent, when more is removed than what is old, and when that ends.
	// Defaults 85 and 75.
	Start, Stop int
	// ImageAge is how long an image stays that nothing uses; 0: until the disk fills.
	ImageAge time.Duration
}

// Space tells how full the disk is; *disk.Watch does.
type Space interface {
	Dir() string
	// Space is of a moment ago, Now of this one.
	Space() disk.Space
	Now() (disk.Space, error)
	Changed() <-chan struct{}
}

const (
	defaultCleanStart = 85
	defaultCleanStop  = 75
	// cleanEvery is between two looks.
	cleanEvery = time.Minute
	// freshImage is how long an image stays in any case: somebody is about to use it.
	freshImage = 5 * time.Minute
)

// cleaner removes images, logs of tasks that are history and dead containers, by age, and when the disk fills. An image
// goes only with a manager's leave, so that nodes do not remove the last copies at once.
type cleaner struct {
	w   *Worker
	cfg Clean
	// conn returns a connection to the manager of the session.
	conn func() (grpc.ClientConnInterface, error)
	// began is when this node began to look at what is used, before restarts of the daemon too.
	began   time.Time
	filling bool // the last look found the disk too full; run's

	mu   sync.Mutex           // guards used
	used map[string]time.Time // digest -> when it was last seen to be used
}

func newCleaner(w *Worker, cfg Clean, mem *state.Saved) *cleaner {
	if cfg.Start == 0 {
		cfg.Start = defaultCleanStart
	}
	if cfg.Stop == 0 {
		cfg.Stop = min(defaultCleanStop, cfg.Start)
	}
	c := &cleaner{w: w, cfg: cfg, conn: w.managers.Conn, began: mem.Began, used: mem.Used}
	if c.began.IsZero() {
		c.began = time.Now()
		w.state.SetBegan(c.began)
	}
	return c
}

// run cleans until ctx ends, once the managers have said what this node has to do.
func (c *cleaner) run(ctx context.Context) error {
	if c.w.deps.Storage == nil || c.w.deps.Space == nil {
		return nil
	}
	select {
	case <-c.w.managers.Synced():
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(cleanEvery)
	defer tick.Stop()
	for {
		changed := c.w.deps.Space.Changed()
		if err := c.clean(ctx); err != nil && ctx.Err() == nil {
			c.w.deps.Log.Warn("clean up the disk", "err", err)
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
func (c *cleaner) clean(ctx context.Context) error {
	if _, _, err := c.w.removeDead(ctx); err != nil {
		return err
	}
	idle, err := c.idle(ctx)
	if err != nil {
		return err
	}
	var old []engine.Holding
	if c.cfg.ImageAge > 0 {
		old = slices.DeleteFunc(slices.Clone(idle), func(h engine.Holding) bool {
			return time.Since(c.lastUse(h)) < c.cfg.ImageAge || time.Since(c.began) < c.cfg.ImageAge
		})
	}
	for _, h := range old {
		if _, err := c.remove(ctx, h); err != nil {
			return err
		}
	}
	used := c.w.deps.Space.Space().UsedPercent()
	was := c.filling
	if c.filling = used >= c.cfg.Start; !c.filling {
		return nil
	}
	if !was {
		c.w.deps.Log.Info("the disk fills: images and logs that nothing needs are removed", "used", used, "until", c.cfg.Stop)
	}
	return c.relieve(ctx, idle)
}

// relieve removes until the disk is empty enough.
func (c *cleaner) relieve(ctx context.Context, idle []engine.Holding) error {
	enough := func() bool {
		space, err := c.w.deps.Space.Now()
		return err != nil || space.UsedPercent() < c.cfg.Stop
	}
	for _, h := range idle {
		if enough() {
			return nil
		}
		if _, err := c.remove(ctx, h); err != nil {
			return err
		}
	}
	for _, l := range c.w.logSizes() {
		if !l.Retired.IsZero() && !enough() {
			c.w.deps.Logs.Discard(l.TaskID)
		}
	}
	return nil
}

// idle lists the images that may be removed as far as this node knows, those unused for the longest time first.
func (c *cleaner) idle(ctx context.Context) ([]engine.Holding, error) {
	held, _, err := c.w.deps.Storage.Holdings(ctx)
	if err != nil {
		return nil, err
	}
	c.forget(held)
	var idle []engine.Holding
	for _, h := range held {
		digest := h.Image.GetDigest()
		switch {
		case h.Containers > 0 || c.w.uses(digest):
			c.touch(digest)
		case !c.w.keeps(digest) && time.Since(c.lastUse(h)) >= freshImage:
			idle = append(idle, h)
		}
	}
	slices.SortFunc(idle, func(a, b engine.Holding) int { return c.lastUse(a).Compare(c.lastUse(b)) })
	return idle, nil
}

// noteEvery is how exactly it is written down when an image was used.
const noteEvery = time.Hour

// touch notes that an image is used. It is written down too: a restart of the daemon must neither make the image look
// unused nor begin its time anew.
func (c *cleaner) touch(digest string) {
	now := time.Now()
	c.mu.Lock()
	before := c.used[digest]
	c.used[digest] = now
	c.mu.Unlock()
	if !before.Truncate(noteEvery).Equal(now.Truncate(noteEvery)) {
		c.w.state.SetImageUse(digest, now)
	}
}

// forget drops what is known of images that are gone.
func (c *cleaner) forget(held []engine.Holding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for digest := range c.used {
		if !slices.ContainsFunc(held, func(h engine.Holding) bool { return h.Image.GetDigest() == digest }) {
			delete(c.used, digest)
			c.w.state.ForgetImage(digest)
		}
	}
}

// lastUse is when an image was last seen to be used, or came.
func (c *cleaner) lastUse(h engine.Holding) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.used[h.Image.GetDigest()]; at.After(h.Since) {
		return at
	}
	return h.Since
}

// releasePatience bounds the wait for a manager.
const releasePatience = 10 * time.Second

// remove asks a manager, and removes the image if it may.
func (c *cleaner) remove(ctx context.Context, h engine.Holding) (removed bool, err error) {
	digest := h.Image.GetDigest()
	granted, err := c.release(ctx, digest, false)
	if err != nil || !granted {
		return false, err
	}
	err = c.w.deps.Images.Remove(ctx, digest)
	switch {
	case err == nil:
		c.w.deps.Log.Info("image removed, since nothing uses it", "image", h.Image.GetName(), "digest", digest, "unused", c.lastUse(h))
		return true, nil
	case errdefs.IsNotFound(err):
		return true, nil
	}
	if _, uerr := c.release(context.WithoutCancel(ctx), digest, true); uerr != nil {
		return false, fmt.Errorf("%w; and the managers do not know that the image stays: %w", err, uerr)
	}
	if errdefs.IsFailedPrecondition(err) { // a container was made from it this moment
		return false, nil
	}
	return false, err
}

// release asks the manager that this node is in contact with.
func (c *cleaner) release(ctx context.Context, digest string, undo bool) (granted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, releasePatience)
	defer cancel()
	conn, err := c.conn()
	if err != nil {
		return false, err
	}
	answer, err := swarmv1.NewDisksClient(conn).Release(ctx, &swarmv1.ReleaseRequest{Digests: []string{digest}, Undo: undo})
	if err != nil {
		return false, fmt.Errorf("ask whether image %s may go: %w", digest, err)
	}
	return slices.Contains(answer.GetGranted(), digest), nil
}

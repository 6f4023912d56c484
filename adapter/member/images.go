//go:build linux

package member

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"swarm/internal/disk"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
	"swarm/worker/engine"
)

// Images gives the control API the image store of its node.
type Images struct {
	store    engine.ImageStore
	hostname string
	room     func(bytes int64) error // nil with a simulated runtime
}

// NewImages returns the image store of the node hostname, whose disk d watches. d is nil with a
// simulated runtime.
func NewImages(store engine.ImageStore, hostname string, d *disk.Watch) Images {
	i := Images{store: store, hostname: hostname}
	if d != nil {
		i.room = d.Room
	}
	return i
}

// Load stores the images of a tar archive. size is the size of the archive in bytes.
func (i Images) Load(ctx context.Context, r io.Reader, size int64, name string, progress func(*swarmv1.ImageProgress)) ([]*swarmv1.Image, error) {
	if i.room != nil {
		if err := i.room(size); err != nil {
			return nil, fmt.Errorf("node %s: %w", i.hostname, err)
		}
	}
	return i.store.Load(ctx, r, name, progress)
}

// Pull fetches an image from its registry.
func (i Images) Pull(ctx context.Context, reference, auth string, progress func(*swarmv1.ImageProgress)) (*swarmv1.Image, error) {
	return i.store.Pull(ctx, engine.PullRequest{Ref: reference, Auth: auth}, progress)
}

// Push sends an image to its registry.
func (i Images) Push(ctx context.Context, reference, auth string, progress func(*swarmv1.ImageProgress)) error {
	return i.store.Push(ctx, engine.PushRequest{Ref: reference, Auth: auth}, progress)
}

const (
	// leaveGrace is how long containers may take to stop when their node leaves its cluster.
	leaveGrace = 10 * time.Second
	// removals is how many containers are removed at a time.
	removals = 8
)

// Runtime is the part of engine.Runtime that Clean uses.
type Runtime interface {
	List(ctx context.Context) ([]engine.Found, error)
	Stop(ctx context.Context, taskID, signal string, grace time.Duration) error
	Remove(ctx context.Context, taskID string) error
}

// Clean stops and removes every container of a former membership, and then calls purge, which
// removes the networks. If a container cannot be removed, Clean still removes the others and the
// networks. If the containers cannot be listed, Clean does not call purge. runDir is the run folder
// of the worker, whose files of tasks Clean removes.
func Clean(ctx context.Context, r Runtime, runDir string, purge func(context.Context) error) error {
	found, err := r.List(ctx)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(removals)
	for _, c := range found {
		g.Go(func() error {
			return errors.Join(r.Stop(ctx, c.TaskID, "", leaveGrace), r.Remove(ctx, c.TaskID))
		})
	}
	return errors.Join(g.Wait(), os.RemoveAll(worker.FilesDir(runDir)), purge(ctx))
}

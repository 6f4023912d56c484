package task

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/pause"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

const (
	// reopenFirst and reopenLimit bound the pause before a node is asked again: a daemon that
	// restarts is back within seconds.
	reopenFirst = 250 * time.Millisecond
	reopenLimit = 5 * time.Second
	// startTries are the doublings of reopenFirst while a node knows nothing of a task.
	startTries = 2
)

var (
	errFollowedGone   = errors.New("what was followed is gone")
	errFollowedEnough = errors.New("what was followed has come")
)

// follow passes on what comes, and opens a stream for every task that appears on a node.
func (l *logs) follow(ctx context.Context) error {
	if u := l.options.GetUntil(); u != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, u.AsTime(), errFollowedEnough)
		defer cancel()
	}
	outer := ctx
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			if err := l.attendAll(ctx, g); !errors.Is(err, raftstore.ErrResync) {
				return err
			}
		}
	})
	err := g.Wait()
	if errors.Is(err, errFollowedGone) || errors.Is(context.Cause(outer), errFollowedEnough) {
		return nil
	}
	return err
}

// attendAll returns when what is followed is gone, or the watch fell behind.
func (l *logs) attendAll(ctx context.Context, g *errgroup.Group) error {
	v, w := l.server.store.Watch(raftstore.TableTask, raftstore.TableService)
	defer w.Close()
	for {
		_, asService := v.Services.Get(l.want.service)
		_, asTask := v.Tasks.Get(l.want.task)
		if !asService && !asTask {
			return errFollowedGone
		}
		l.attend(ctx, g, v)
		batch, err := w.Next(ctx)
		if err != nil {
			return err
		}
		v = batch.View
	}
}

func (l *logs) attend(ctx context.Context, g *errgroup.Group, v *raftstore.View) {
	for node, tasks := range l.want.tasks(v) {
		for _, id := range tasks {
			attended, old := l.following[id]
			if attended {
				continue
			}
			l.following[id] = true
			g.Go(func() error { return l.attendTask(ctx, node, id, old) })
		}
	}
}

// attendTask passes on one task's records until the node says that there will be no more, or the
// task is gone. A node that does not answer is asked again: its daemon restarts, or has yet to
// start the task. old: the past was passed on.
func (l *logs) attendTask(ctx context.Context, node, id string, old bool) error {
	o := l.options.CloneVT()
	if !old {
		o.Tail = -1
	}
	began := time.Now()
	for try := 0; ; try++ {
		v := l.server.store.View()
		if _, ok := v.Tasks.Get(id); !ok {
			return nil
		}
		// What has ended may be read to its end, but nothing follows.
		ended := task.Terminal(v.Status(id).GetState())
		o.Follow, o.After = !ended, l.places(id)
		heard, err := l.read(ctx, node, id, o)
		switch {
		case err == nil || ctx.Err() != nil:
			return ctx.Err()
		case errdefs.IsNotFound(err) && ended:
			return nil // it never ran, or is forgotten
		}
		then := ": trying again"
		final := errdefs.IsPermissionDenied(err) || errdefs.IsNotImplemented(err)
		if final {
			then = ": its part is missing"
		}
		if cerr := l.complain(v, node, err, then); cerr != nil || final {
			return cerr
		}
		if heard {
			try = 0
		}
		if errdefs.IsNotFound(err) {
			try = min(try, startTries) // it may start any moment
		}
		if err := reopenPause(ctx, try); err != nil {
			return err
		}
		if old && o.Tail == 0 { // what was written meanwhile is news, though none came before it
			o.Tail = -1
			if u := l.options.GetSince(); u == nil || u.AsTime().Before(began) {
				o.Since = timestamppb.New(began)
			}
		}
	}
}

// read passes on what one stream gives, to its end. heard: it gave something.
func (l *logs) read(ctx context.Context, node, id string, o *swarmv1.LogOptions) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from, err := l.open(ctx, node, []string{id}, o)
	if err != nil {
		return false, err
	}
	for {
		msg, err := l.recv(from, node, id)
		if errors.Is(err, io.EOF) {
			return heard, nil
		}
		if err != nil {
			return heard, err
		}
		if !heard {
			l.heard(node)
		}
		heard = true
		if err := l.pass(msg); err != nil {
			return heard, err
		}
	}
}

func reopenPause(ctx context.Context, try int) error {
	d := min(reopenFirst<<min(try, 10), reopenLimit)
	return pause.For(ctx, d/2+rand.N(d/2+1))
}

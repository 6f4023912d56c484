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
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

const (
	// reopenFirst and reopenLimit are the shortest and the longest pause before a node is asked
	// again. A daemon that restarts answers within seconds.
	reopenFirst = 250 * time.Millisecond
	reopenLimit = 5 * time.Second
	// startTries limits how often the pause doubles while a node does not know a task yet, because
	// the task may start at any moment.
	startTries = 2
)

var (
	errFollowedGone  = errors.New("the task or service does not exist any more")
	errFollowedUntil = errors.New("the end of the requested time is reached")
)

// follow passes on new records, and opens a stream for every task that appears on a node.
func (l *logs) follow(ctx context.Context) error {
	if u := l.options.GetUntil(); u != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, u.AsTime(), errFollowedUntil)
		defer cancel()
	}
	outer := ctx
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			if err := l.followAll(ctx, g); !errors.Is(err, watch.ErrResync) {
				return err
			}
		}
	})
	err := g.Wait()
	if errors.Is(err, errFollowedGone) || errors.Is(context.Cause(outer), errFollowedUntil) {
		return nil
	}
	return err
}

// followAll follows every task. It returns errFollowedGone when the task or the service does not
// exist any more, and watch.ErrResync when its watch fell behind.
func (l *logs) followAll(ctx context.Context, g *errgroup.Group) error {
	v, w := l.server.store.Watch(table.Task, table.Service)
	defer w.Close()
	for {
		_, asService := v.Services.Get(l.want.service)
		_, asTask := v.Tasks.Get(l.want.task)
		if !asService && !asTask {
			return errFollowedGone
		}
		l.followNew(ctx, g, v)
		batch, err := w.Next(ctx)
		if err != nil {
			return err
		}
		v = batch.View
	}
}

// followNew follows the tasks that are not followed yet.
func (l *logs) followNew(ctx context.Context, g *errgroup.Group, v *table.View) {
	for node, tasks := range l.want.tasks(v) {
		for _, id := range tasks {
			followed, old := l.following[id]
			if followed {
				continue
			}
			l.following[id] = true
			g.Go(func() error { return l.followTask(ctx, node, id, old) })
		}
	}
}

// followTask passes on the records of one task until the node says that there are no more, or the
// task does not exist any more. If the node does not answer, followTask asks again: the node's
// daemon may restart, or may not have started the task yet. old says that past has passed on the
// records until now.
func (l *logs) followTask(ctx context.Context, node, id string, old bool) error {
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
		// The log of a task that has ended is read to its end. Nothing follows it.
		ended := task.Terminal(v.Status(id).GetState())
		o.Follow, o.After = !ended, l.places(id)
		heard, err := l.read(ctx, node, id, o)
		switch {
		case err == nil || ctx.Err() != nil:
			return ctx.Err()
		case errdefs.IsNotFound(err) && ended:
			return nil // The task never ran, or the node has deleted its log.
		}
		then := ": trying again"
		final := errdefs.IsPermissionDenied(err) || errdefs.IsNotImplemented(err)
		if final {
			then = ": its part is missing"
		}
		if cerr := l.report(v, node, err, then); cerr != nil || final {
			return cerr
		}
		if heard {
			try = 0
		}
		if errdefs.IsNotFound(err) {
			try = min(try, startTries)
		}
		if err := reopenPause(ctx, try); err != nil {
			return err
		}
		// The user wants only new records: those since the call began.
		if old && o.Tail == 0 {
			o.Tail = -1
			if u := l.options.GetSince(); u == nil || u.AsTime().Before(began) {
				o.Since = timestamppb.New(began)
			}
		}
	}
}

// read passes on the records of one stream to its end. heard says that there was at least one
// message.
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

// reopenPause waits before the next attempt: half of the pause, plus a random part of the other
// half.
func reopenPause(ctx context.Context, try int) error {
	d := min(reopenFirst<<min(try, 10), reopenLimit)
	return pause.For(ctx, d/2+rand.N(d/2+1))
}

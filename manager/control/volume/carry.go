package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/internal/pause"
	"swarm/manager/control/nodecall"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

const (
	// movePoll is the pause between two looks at what a move waits for, and moveRetry the pause
	// after an error.
	movePoll  = 200 * time.Millisecond
	moveRetry = 2 * time.Second
	// stoppedLimit is how long a move that has stopped tasks tries again after errors. Then it is
	// abandoned, and the tasks start where they were.
	stoppedLimit = time.Minute
	// noteInterval is how often the progress of a copy is stored.
	noteInterval = 2 * time.Second
	// A copy with running tasks is repeated while it takes longer than quickCopy, but at most
	// maxCopies times, so that the copy with stopped tasks is short.
	quickCopy = 5 * time.Second
	maxCopies = 4
)

// MoveVolumes is a duty of the leader (see manager.Manager.lead). It carries on the moves in the
// rows of volumes. What it has done is in the rows and on the nodes, so another leader goes on from
// there. It returns when ctx ends, or with an error. Goroutines: one for each move.
func (s *Server) MoveVolumes(ctx context.Context) error {
	view, w := s.store.Watch(table.Volume)
	defer w.Close()
	g, ctx := errgroup.WithContext(ctx)
	begun := make(map[string]bool) // by the id of the move
	begin := func(row *swarmv1.Volume) {
		if id := row.GetMove().GetId(); id != "" && !begun[id] {
			begun[id] = true
			m := &mover{s: s, key: table.Key(row), id: id}
			g.Go(func() error { return m.run(ctx) })
		}
	}
	for row := range view.Volumes.All() {
		begin(row)
	}
	g.Go(func() error {
		for {
			batch, err := w.Next(ctx)
			if err != nil {
				return err
			}
			for _, c := range batch.Changes {
				if row, ok := c.Row().(*swarmv1.Volume); ok && c.New != nil {
					begin(row)
				}
			}
		}
	})
	return g.Wait()
}

// mover carries on one move. One goroutine uses it.
type mover struct {
	s       *Server
	key, id string
	failing time.Time // since when the steps fail; zero: the last one has not failed
}

// run carries on the move until it has ended or ctx ends.
func (m *mover) run(ctx context.Context) error {
	for ctx.Err() == nil {
		row, ok := m.s.store.View().Volumes.Get(m.key)
		if !ok || row.GetMove().GetId() != m.id {
			return nil
		}
		wait := time.Duration(0)
		err := m.step(ctx, row)
		switch {
		case errors.Is(err, errMoveEnded), ctx.Err() != nil:
		case errors.Is(err, errWait):
			m.failing, wait = time.Time{}, movePoll
		case err != nil:
			m.fail(ctx, row, err)
			wait = moveRetry
		default:
			m.failing = time.Time{}
		}
		_ = pause.For(ctx, wait)
	}
	return ctx.Err()
}

// errWait says that a step must be tried again later.
var errWait = errors.New("wait")

// step does what the phase of a move needs.
func (m *mover) step(ctx context.Context, row *swarmv1.Volume) error {
	switch row.GetMove().GetPhase() {
	case swarmv1.VolumeMove_COPYING:
		return m.copyWarm(ctx, row)
	case swarmv1.VolumeMove_STOPPED:
		return m.copyRest(ctx, row)
	case swarmv1.VolumeMove_SWITCHED:
		return m.complete(ctx, row)
	default:
		return m.discard(ctx, row)
	}
}

// fail stores why a move does not go on, and abandons it if trying again is of no use.
func (m *mover) fail(ctx context.Context, row *swarmv1.Volume, cause error) {
	phase, text := row.GetMove().GetPhase(), nodecall.ErrorText(cause)
	if m.failing.IsZero() {
		m.failing = time.Now()
	}
	// While tasks have stopped, ErrFailedPrecondition says that their containers are being removed.
	abandon := phase == swarmv1.VolumeMove_COPYING && (isFinal(cause) || errdefs.IsFailedPrecondition(cause)) ||
		phase == swarmv1.VolumeMove_STOPPED && (isFinal(cause) || time.Since(m.failing) > stoppedLimit)
	m.s.log.Warn("move of a volume", "volume", row.GetName(), "node", row.GetMove().GetNodeId(), "phase", phase, "abandoned", abandon, "err", cause)
	_ = m.edit(ctx, func(_ *table.View, row *swarmv1.Volume) ([]*swarmv1.Change, error) { // The next step tells again.
		if row.Move.Phase != phase {
			return nil, nil
		}
		row.Move.Err = text
		if abandon {
			row.Move.Phase = swarmv1.VolumeMove_ABANDONED
		}
		return nil, nil
	})
}

// isFinal reports whether a step fails again after an error: the disk of the new node is full, or
// one of the volumes is not what the move was made for.
func isFinal(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsAlreadyExists(err) || errdefs.IsResourceExhausted(err) || errdefs.IsInvalidArgument(err)
}

func (m *mover) edit(ctx context.Context, edit func(*table.View, *swarmv1.Volume) ([]*swarmv1.Change, error)) error {
	return m.s.editMove(ctx, m.key, m.id, edit)
}

// to writes the next phase if the move is in the phase from.
func (m *mover) to(ctx context.Context, from, next swarmv1.VolumeMove_Phase) error {
	return m.edit(ctx, func(_ *table.View, row *swarmv1.Volume) ([]*swarmv1.Change, error) {
		if row.Move.Phase == from {
			row.Move.Phase, row.Move.Err = next, ""
		}
		return nil, nil
	})
}

// copyWarm copies the volume while tasks use it. It copies again what has changed meanwhile, until
// that is quick.
func (m *mover) copyWarm(ctx context.Context, row *swarmv1.Volume) error {
	for range maxCopies {
		began := time.Now()
		if _, err := m.copy(ctx, row, false); err != nil {
			return err
		}
		if time.Since(began) < quickCopy {
			break
		}
	}
	return m.to(ctx, swarmv1.VolumeMove_COPYING, swarmv1.VolumeMove_STOPPED)
}

// copyRest waits until no task uses the volume, copies what has changed, makes the volume on the
// new node, and makes it the current place.
func (m *mover) copyRest(ctx context.Context, row *swarmv1.Volume) error {
	if tasks, _ := object.VolumeUsers(m.s.store.View(), row); len(tasks) > 0 {
		return errWait
	}
	placed, err := m.copy(ctx, row, true)
	if err != nil {
		return err
	}
	if !placed {
		node, err := m.s.connect(row.GetMove().GetNodeId())
		if err != nil {
			return err
		}
		if _, err := node.PlaceMoved(ctx, m.staged(row)); err != nil {
			return err
		}
	}
	return m.switchOver(ctx, row)
}

// staged names what the new node receives.
func (m *mover) staged(row *swarmv1.Volume) *swarmv1.StagedVolume {
	return &swarmv1.StagedVolume{Volume: &swarmv1.Volume{Name: row.GetName(), Labels: row.GetLabels(), CreatedAt: row.GetCreatedAt()}, Move: m.id}
}

// switchOver puts the volume on the new node in the place of the one on the old node, in one
// group. It waits until the new node has reported its volume: an older report would delete the row.
func (m *mover) switchOver(ctx context.Context, row *swarmv1.Volume) error {
	err := m.edit(ctx, func(v *table.View, old *swarmv1.Volume) ([]*swarmv1.Change, error) {
		if old.Move.Phase != swarmv1.VolumeMove_STOPPED {
			return nil, errMoveEnded
		}
		made, ok := v.Volumes.Get(table.VolumeKey(old.Move.NodeId, old.Name))
		if tasks, _ := object.VolumeUsers(v, old); !ok || !made.GetReported() || len(tasks) > 0 {
			return nil, errWait
		}
		made = made.CloneVT()
		for _, u := range old.Uses {
			if !slices.ContainsFunc(made.Uses, u.EqualVT) {
				made.Uses = append(made.Uses, u)
			}
		}
		// From now on tasks are drawn by the new row alone.
		made.Accepted, made.MakerId = old.Accepted || old.MakerId == "", old.MakerId
		old.Uses, old.Accepted, old.MakerId = nil, false, ""
		old.Move.Phase, old.Move.Err = swarmv1.VolumeMove_SWITCHED, ""
		return []*swarmv1.Change{table.Update(made)}, nil
	})
	if err == nil {
		m.s.log.Info("volume moved", "volume", row.GetName(), "from", row.GetNodeId(), "to", row.GetMove().GetNodeId(), "actor", row.GetMove().GetActor())
	}
	return err
}

// complete waits until a task runs with the volume on the new node, or no task wants it. Then it
// removes the volume from the old node.
func (m *mover) complete(ctx context.Context, row *swarmv1.Volume) error {
	v := m.s.store.View()
	made, ok := v.Volumes.Get(table.VolumeKey(row.GetMove().GetNodeId(), row.GetName()))
	if !ok {
		return fmt.Errorf("volume %s is gone from %s: its former files are on %s", row.GetName(), object.NodeName(v, row.GetMove().GetNodeId()), nodeName(v, row))
	}
	if !inUse(v, made) {
		return errWait
	}
	if row.GetMove().GetKeep() {
		return m.edit(ctx, func(_ *table.View, row *swarmv1.Volume) ([]*swarmv1.Change, error) {
			row.Move = nil
			return nil, nil
		})
	}
	if _, err := m.s.remove(ctx, row, false); err != nil {
		return err
	}
	return nil
}

// inUse reports whether a task runs with a volume, or no task is to run with it.
func inUse(v *table.View, row *swarmv1.Volume) bool {
	wanted := false
	for _, u := range row.GetUses() {
		for t := range v.TasksOfSlot(u.GetServiceId(), u.GetSlot()) {
			if object.Ended(v, t) || t.GetDesiredState() > swarmv1.TaskState_RUNNING {
				continue
			}
			wanted = true
			if t.GetNodeId() == row.GetNodeId() && v.Status(t.GetId()).GetState() == swarmv1.TaskState_RUNNING {
				return true
			}
		}
	}
	return !wanted
}

// discard removes what the new node has received, and forgets the move.
func (m *mover) discard(ctx context.Context, row *swarmv1.Volume) error {
	if _, ok := m.s.store.View().Nodes.Get(row.GetMove().GetNodeId()); ok {
		node, err := m.s.connect(row.GetMove().GetNodeId())
		if err != nil {
			return err
		}
		// Containers may use the volume there if a task was placed on the node meanwhile. Then it
		// is a volume of that task, and stays.
		if _, err := node.DiscardMoved(ctx, m.staged(row)); err != nil && !errdefs.IsFailedPrecondition(err) {
			return err
		}
	}
	return m.edit(ctx, func(_ *table.View, row *swarmv1.Volume) ([]*swarmv1.Change, error) {
		row.Move = nil
		return nil, nil
	})
}

// copy copies to the new node what it does not have yet. placed: the volume was made there before.
func (m *mover) copy(ctx context.Context, row *swarmv1.Volume, unused bool) (placed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from, err := m.s.connect(row.GetNodeId())
	if err != nil {
		return false, err
	}
	to, err := m.s.connect(row.GetMove().GetNodeId())
	if err != nil {
		return false, err
	}
	archive, err := from.SendMoved(ctx)
	if err != nil {
		return false, err
	}
	if err := m.sendList(ctx, row, unused, to, archive); err != nil {
		return false, err
	}
	sink, err := to.ReceiveMoved(ctx)
	if err != nil {
		return false, err
	}
	err = sink.Send(&swarmv1.ReceiveMovedRequest{Message: &swarmv1.ReceiveMovedRequest_Start{Start: m.staged(row)}})
	noted, copied := time.Now(), row.GetMove().GetCopied()
	for err == nil {
		var data []byte
		if data, err = chunk(archive); err != nil {
			break
		}
		copied += int64(len(data))
		if time.Since(noted) > noteInterval {
			noted = time.Now()
			if err := m.noteCopied(ctx, row, copied); err != nil {
				return false, err
			}
		}
		if err = sink.Send(&swarmv1.ReceiveMovedRequest{Message: &swarmv1.ReceiveMovedRequest_Data{Data: data}}); errors.Is(err, io.EOF) {
			break // The node has answered.
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	answer, err := sink.CloseAndRecv()
	if err != nil || answer.GetPlaced() {
		return answer.GetPlaced(), err
	}
	return false, m.noteCopied(ctx, row, copied)
}

// sendList sends the list of the files that the new node has to the old node.
func (m *mover) sendList(ctx context.Context, row *swarmv1.Volume, unused bool, to swarmv1.NodeVolumesClient, archive grpc.BidiStreamingClient[swarmv1.SendMovedRequest, swarmv1.VolumeChunk]) error {
	list, err := to.ListReceived(ctx, m.staged(row))
	if err != nil {
		return err
	}
	next := &swarmv1.SendMovedRequest{Message: &swarmv1.SendMovedRequest_Start{Start: &swarmv1.SendMovedStart{Name: row.GetName(), Unused: unused}}}
	for {
		if err := archive.Send(next); errors.Is(err, io.EOF) {
			return nil // The node has given up, and says why when its archive is read.
		} else if err != nil {
			return err
		}
		data, err := chunk(list)
		if errors.Is(err, io.EOF) {
			return archive.CloseSend()
		}
		if err != nil {
			return err
		}
		next = &swarmv1.SendMovedRequest{Message: &swarmv1.SendMovedRequest_Received{Received: data}}
	}
}

// noteCopied stores the progress of a copy. It returns errMoveEnded if the move is in another phase
// meanwhile: somebody has abandoned it.
func (m *mover) noteCopied(ctx context.Context, row *swarmv1.Volume, copied int64) error {
	phase := row.GetMove().GetPhase()
	return m.edit(ctx, func(_ *table.View, row *swarmv1.Volume) ([]*swarmv1.Change, error) {
		if row.Move.Phase != phase {
			return nil, errMoveEnded
		}
		row.Move.Copied, row.Move.Err = copied, ""
		return nil, nil
	})
}

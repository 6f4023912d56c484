package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/ident"
	"swarm/internal/spec"
	"swarm/internal/template"
	"swarm/manager/control/crud"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// MoveVolume moves a volume to another node: it writes the move into the row of the volume, and
// then shows what the duty MoveVolumes of the leader does. The move goes on if the call ends. A
// call for a move that goes on already shows that one.
//
// It returns ErrInvalidArgument, ErrNotFound, ErrFailedPrecondition or ErrUnavailable if the volume
// cannot move, and ErrAborted if the move was abandoned.
func (s *Server) MoveVolume(req *swarmv1.MoveVolumeRequest, stream grpc.ServerStreamingServer[swarmv1.MoveVolumeProgress]) error {
	ctx := stream.Context()
	if err := checkName(req.GetName()); err != nil {
		return err
	}
	if err := s.writer.CatchUp(ctx); err != nil {
		return err
	}
	row, err := s.find(req.GetName(), req.GetNode())
	if err != nil {
		return err
	}
	to, err := s.nodes.Find(s.store.View(), req.GetToNode())
	if err != nil {
		return err
	}
	plan, err := s.planMove(s.store.View(), row, to, req.GetKeep())
	if err != nil {
		return err
	}
	if err := stream.Send(&swarmv1.MoveVolumeProgress{Plan: plan}); err != nil || req.GetDryRun() {
		return err
	}
	move, err := s.beginMove(ctx, table.Key(row), to, req.GetKeep())
	if err != nil {
		return err
	}
	return s.showMove(stream, table.Key(row), row.GetName(), move)
}

// planMove returns what a move does, or why the volume cannot move.
func (s *Server) planMove(v *table.View, row *swarmv1.Volume, to *swarmv1.Node, keep bool) (*swarmv1.MoveVolumePlan, error) {
	refuse := func(format string, args ...any) (*swarmv1.MoveVolumePlan, error) {
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("volume %s ", row.GetName()) + fmt.Sprintf(format, args...))
	}
	from, target := nodeName(v, row), object.NodeName(v, to.GetId())
	had, exists := v.Volumes.Get(table.VolumeKey(to.GetId(), row.GetName()))
	switch {
	case row.GetNodeId() == "":
		return refuse("is on a file server, %s: every node mounts it, so it need not move", row.GetDriver().GetOptions()["device"])
	case len(row.GetDriver().GetOptions()) > 0:
		return refuse("has driver options, and its files are on %s: create a volume with the same options on %s", row.GetDriver().GetOptions()["device"], target)
	case row.GetMove().GetNodeId() == to.GetId() && row.GetMove().GetPhase() != swarmv1.VolumeMove_ABANDONED: // It goes on already.
	case row.GetMove() != nil:
		return refuse("is being moved to %s already: wait, or abandon that move with `swarm volume move --abandon %s`", object.NodeName(v, row.GetMove().GetNodeId()), row.GetName())
	case row.GetNodeId() == to.GetId():
		return refuse("is on %s already", target)
	case had.GetMove() != nil:
		return refuse("is being moved from %s: wait, or abandon that move first", target)
	case exists:
		return refuse("exists on %s too: remove that one first, with `swarm volume rm --node %s %s`", target, target, row.GetName())
	case to.GetSpec().GetAvailability() != swarmv1.NodeSpec_ACTIVE:
		return refuse("cannot move to %s: the node takes no tasks (availability %s)", target, strings.ToLower(to.GetSpec().GetAvailability().String()))
	}
	if row.GetMove() == nil {
		for _, node := range []string{row.GetNodeId(), to.GetId()} {
			if _, err := s.connect(node); err != nil {
				return nil, err
			}
		}
		if err := usersMayMove(v, row, to); err != nil {
			return nil, err
		}
	}
	tasks, _ := object.VolumeUsers(v, row)
	return &swarmv1.MoveVolumePlan{From: from, To: target, Size: row.GetSize(), Measured: row.GetMeasuredAt() != nil, Tasks: tasks, Keep: keep}, nil
}

// usersMayMove returns an error if a task that mounts a volume would not follow it to a node.
func usersMayMove(v *table.View, row *swarmv1.Volume, to *swarmv1.Node) error {
	for t := range v.TasksOnNode(row.GetNodeId()) {
		if object.Ended(v, t) || t.GetDesiredState() > swarmv1.TaskState_RUNNING || !slices.Contains(object.MountedVolumes(v, t), row.GetName()) {
			continue
		}
		service, target := object.ServiceName(v, t.GetServiceId()), object.NodeName(v, to.GetId())
		refuse := func(format string, args ...any) error {
			return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("volume %s cannot move to %s: service %s ", row.GetName(), target, service) + fmt.Sprintf(format, args...))
		}
		rev, _ := v.Revision(t.GetServiceId(), t.GetRevision())
		if rev.GetSpec().GetMode().GetGlobal() != nil || rev.GetSpec().GetMode().GetGlobalJob() != nil {
			return refuse("is global, and has a volume of its own on every node")
		}
		follows := false
		for _, m := range rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetMounts() {
			if !spec.IsNodeVolume(m) {
				continue
			}
			name, known := template.SlotSource(rev, t.GetSlot(), m.GetSource())
			switch {
			case known && name == row.GetName():
				follows = true
			case known:
				if _, there := v.Volumes.Get(table.VolumeKey(to.GetId(), name)); !there {
					return refuse("mounts volume %s too, which is not there: scale the service to 0, move both, and scale it back", name)
				}
			}
		}
		if !follows {
			return refuse("mounts it by a name that depends on the node or the task, so its tasks do not follow it")
		}
		if why := unmatched(v, rev, to); why != "" {
			return refuse("has the constraint %s, which that node does not satisfy: change it with `swarm service update` first", why)
		}
	}
	return nil
}

// unmatched returns the constraint of a revision that a node does not satisfy by its id, name or
// role, or "". The planner knows all constraints; these are the ones that users bind volumes with.
func unmatched(v *table.View, rev *swarmv1.Revision, to *swarmv1.Node) string {
	constraints, err := spec.ParseConstraints(rev.GetSpec().GetTaskTemplate().GetPlacement().GetConstraints())
	if err != nil {
		return ""
	}
	for _, c := range constraints {
		have := ""
		switch c.Attr {
		case spec.AttrNodeID:
			have = to.GetId()
		case spec.AttrHostname:
			have = to.GetHostname()
		default:
			continue
		}
		if !c.Matches(have) {
			return c.String()
		}
	}
	return ""
}

// beginMove writes the move, unless it goes on already, and returns it.
func (s *Server) beginMove(ctx context.Context, key string, to *swarmv1.Node, keep bool) (move *swarmv1.VolumeMove, err error) {
	_, err = s.writer.Write(ctx, 0, func(v *table.View) ([]*swarmv1.Change, error) {
		row, ok := v.Volumes.Get(key)
		if !ok {
			return nil, errdefs.ErrNotFound.WithMessage("the volume was removed meanwhile")
		}
		if _, err := s.planMove(v, row, to, keep); err != nil {
			return nil, err
		}
		if row.GetMove() != nil {
			move = row.GetMove()
			return nil, nil
		}
		row = row.CloneVT()
		row.Move = &swarmv1.VolumeMove{Id: ident.NewID(), NodeId: to.GetId(), Keep: keep, Actor: crud.Actor(ctx), StartedAt: timestamppb.Now()}
		move = row.Move
		return []*swarmv1.Change{table.Update(row)}, nil
	})
	return move, err
}

// showMove sends the state of a move whenever it changes, until the move has ended.
func (s *Server) showMove(stream grpc.ServerStreamingServer[swarmv1.MoveVolumeProgress], key, name string, move *swarmv1.VolumeMove) error {
	view, w := s.store.Watch(table.Volume)
	defer w.Close()
	for {
		row, _ := view.Volumes.Get(key)
		now := row.GetMove()
		switch {
		case now.GetId() != move.GetId() && move.GetPhase() == swarmv1.VolumeMove_SWITCHED:
			return nil
		case now.GetId() != move.GetId() || now.GetPhase() == swarmv1.VolumeMove_ABANDONED:
			return abandoned(name, now)
		case !now.EqualVT(move) || move.GetCopied() == 0:
			if err := stream.Send(&swarmv1.MoveVolumeProgress{Move: now}); err != nil {
				return err
			}
		}
		move = now
		batch, err := w.Next(stream.Context())
		if err != nil {
			return err
		}
		view = batch.View
	}
}

func abandoned(name string, move *swarmv1.VolumeMove) error {
	why := "on request"
	if text := move.GetErr(); text != "" {
		why = text
	}
	return errdefs.ErrAborted.WithMessage(fmt.Sprintf("the move of volume %s was abandoned, and it stays where it was: %s", name, why))
}

// AbandonMove ends a move. It returns ErrNotFound if the volume is not being moved.
func (s *Server) AbandonMove(ctx context.Context, req *swarmv1.AbandonMoveRequest) (*swarmv1.AbandonMoveResponse, error) {
	if err := checkName(req.GetName()); err != nil {
		return nil, err
	}
	if err := s.writer.CatchUp(ctx); err != nil {
		return nil, err
	}
	var found []*swarmv1.Volume
	v := s.store.View()
	for row := range object.VolumesNamed(v, req.GetName()) {
		if row.GetMove() != nil {
			found = append(found, row)
		}
	}
	if len(found) > 1 || req.GetNode() != "" {
		row, err := s.find(req.GetName(), req.GetNode())
		if err != nil {
			return nil, err
		}
		found = []*swarmv1.Volume{row}
	}
	if len(found) == 0 || found[0].GetMove() == nil {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("volume %s is not being moved: see `swarm volume ls`", req.GetName()))
	}
	out := &swarmv1.AbandonMoveResponse{}
	err := s.editMove(ctx, table.Key(found[0]), found[0].GetMove().GetId(), func(_ *table.View, row *swarmv1.Volume) ([]*swarmv1.Change, error) {
		out.Switched = row.Move.GetPhase() == swarmv1.VolumeMove_SWITCHED
		if out.Switched {
			row.Move = nil
		} else {
			row.Move.Phase, row.Move.Err = swarmv1.VolumeMove_ABANDONED, ""
		}
		return nil, nil
	})
	if errors.Is(err, errMoveEnded) {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("volume %s is not being moved any more: see `swarm volume ls`", req.GetName()))
	}
	return out, err
}

// errMoveEnded says that the row of a volume does not have the move any more.
var errMoveEnded = errors.New("the move has ended")

// editMove writes the row of a volume as edit changes it, together with the changes that edit
// returns, if it still has the move. If not, it returns errMoveEnded.
func (s *Server) editMove(ctx context.Context, key, id string, edit func(*table.View, *swarmv1.Volume) ([]*swarmv1.Change, error)) error {
	_, err := s.writer.Write(ctx, 0, func(v *table.View) ([]*swarmv1.Change, error) {
		old, ok := v.Volumes.Get(key)
		if !ok || old.GetMove().GetId() != id {
			return nil, errMoveEnded
		}
		row := old.CloneVT()
		changes, err := edit(v, row)
		if err != nil || row.EqualVT(old) {
			return changes, err
		}
		return append(changes, table.Update(row)), nil
	})
	return err
}

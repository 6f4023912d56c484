package volume

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/manager/control/crud"
	"swarm/manager/control/nodecall"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// RemoveVolume removes a volume from a node, with its data.
//
// It returns ErrNotFound if there is no such volume; ErrInvalidArgument if several nodes have it
// and the request names none; ErrFailedPrecondition if tasks use it, or, without force, wait for
// it; and ErrUnavailable if the node does not answer, unless the request has force. With force the
// cluster then forgets the volume. If the node returns, it reports the volume again.
func (s *Server) RemoveVolume(ctx context.Context, req *swarmv1.RemoveVolumeRequest) (*swarmv1.RemoveVolumeResponse, error) {
	if err := checkName(req.GetName()); err != nil {
		return nil, err
	}
	if err := s.writer.CatchUp(ctx); err != nil {
		return nil, err
	}
	row, err := s.find(req.GetName(), req.GetNode())
	if err != nil {
		return nil, err
	}
	if row.GetNodeId() == "" {
		err = s.removeShared(ctx, row, req.GetForce())
	} else {
		_, err = s.remove(ctx, row, req.GetForce())
	}
	if err != nil {
		return nil, err
	}
	s.log.Info("volume removed", "volume", row.GetName(), "node", row.GetNodeId(), "force", req.GetForce(), "actor", crud.Actor(ctx))
	return &swarmv1.RemoveVolumeResponse{}, nil
}

// find returns the volume with a name on the node that ref refers to, or the only one with that
// name if ref is empty.
func (s *Server) find(name, ref string) (*swarmv1.Volume, error) {
	v := s.store.View()
	found := slices.Collect(object.VolumesNamed(v, name))
	if ref != "" {
		node, err := s.nodes.Find(v, ref)
		if err != nil {
			return nil, err
		}
		found = slices.DeleteFunc(found, func(row *swarmv1.Volume) bool { return row.GetNodeId() != node.GetId() })
		if len(found) == 0 {
			return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("no volume %s on %s: see `swarm volume ls`", name, object.NodeName(v, node.GetId())))
		}
	}
	switch len(found) {
	case 0:
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("no volume %s: see `swarm volume ls`", name))
	case 1:
		return found[0], nil
	}
	var nodes []string
	for _, row := range found {
		nodes = append(nodes, nodeName(v, row))
	}
	slices.Sort(nodes)
	return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("volume %s is on several nodes, %s: name one with --node", name, object.NameList(nodes)))
}

// checkUnused returns ErrFailedPrecondition if tasks use a volume, or, without force, wait for it.
func checkUnused(v *table.View, row *swarmv1.Volume, force bool) error {
	mounted, waiting := object.VolumeUsers(v, row)
	where := ""
	if row.GetNodeId() != "" {
		where = " on " + nodeName(v, row)
	}
	switch {
	case len(mounted) > 0:
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("volume %s is in use by %s %s%s: stop what uses it first, with `swarm service rm` or `swarm service scale`",
			row.GetName(), plural("task", mounted), object.NameList(mounted), where))
	case len(waiting) > 0 && !force:
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("%s %s %s for volume %s%s: with --force they start on an empty volume",
			plural("task", waiting), object.NameList(waiting), map[bool]string{true: "waits", false: "wait"}[len(waiting) == 1], row.GetName(), where))
	}
	return nil
}

func plural(word string, of []string) string {
	if len(of) == 1 {
		return word
	}
	return word + "s"
}

// remove removes a volume from its node and from the replicated state.
func (s *Server) remove(ctx context.Context, row *swarmv1.Volume, force bool) (reclaimed int64, err error) {
	v := s.store.View()
	name := nodeName(v, row)
	st, _ := v.NodeStates.Get(row.GetNodeId())
	away := st.GetState() != swarmv1.NodeState_READY
	if !force || !away { // The rows of tasks on a lost node stay, and say nothing.
		if err := checkUnused(v, row, force); err != nil {
			return 0, err
		}
	}
	node, ok := v.Nodes.Get(row.GetNodeId())
	if ok {
		err = s.call(ctx, node, dropTimeout, func(ctx context.Context, c swarmv1.NodeVolumesClient) error {
			answer, err := c.Drop(ctx, &swarmv1.DropVolumeRequest{Name: row.GetName()})
			reclaimed = max(answer.GetReclaimed(), 0)
			return err
		})
	}
	switch {
	case err == nil, force && away:
	case errdefs.IsUnavailable(err):
		return 0, fmt.Errorf("remove volume %s: node %s does not answer: bring it back, or use --force to forget the volume there: %w", row.GetName(), name, err)
	default:
		return 0, fmt.Errorf("remove volume %s on %s: %w", row.GetName(), name, err)
	}
	return reclaimed, s.forget(ctx, table.Key(row))
}

// forget deletes the row of a volume.
func (s *Server) forget(ctx context.Context, key string) error {
	_, err := s.writer.Write(ctx, 0, func(v *table.View) ([]*swarmv1.Change, error) {
		row, ok := v.Volumes.Get(key)
		if !ok {
			return nil, nil
		}
		return []*swarmv1.Change{table.Delete(row)}, nil
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// removeShared removes a volume on a file server: its row, and what nodes know of it. The files on
// the server stay.
func (s *Server) removeShared(ctx context.Context, row *swarmv1.Volume, force bool) error {
	v := s.store.View()
	if err := checkUnused(v, row, force); err != nil {
		return err
	}
	s.nodes.Each(ctx, slices.Collect(v.Nodes.All()), makeTimeout, func(ctx context.Context, _ int, conn grpc.ClientConnInterface, err error) {
		if err == nil {
			_, _ = swarmv1.NewNodeVolumesClient(conn).Drop(ctx, &swarmv1.DropVolumeRequest{Name: row.GetName()}) // A node that does not answer reports what it has when it returns.
		}
	})
	return s.forget(ctx, table.Key(row))
}

// PruneVolumes removes the volumes that the filter matches and that no service has used or mounts.
// A volume that cannot be removed is in the result with an error.
func (s *Server) PruneVolumes(ctx context.Context, req *swarmv1.PruneVolumesRequest) (*swarmv1.PruneVolumesResponse, error) {
	if err := s.writer.CatchUp(ctx); err != nil {
		return nil, err
	}
	v := s.store.View()
	filter, err := object.ResolveFilter(v, req.GetFilter())
	if err != nil {
		return nil, err
	}
	byNode := make(map[string][]*swarmv1.Volume)
	var nodes []*swarmv1.Node
	for _, row := range matching(v, filter) {
		node, ok := v.Nodes.Get(row.GetNodeId())
		if !ok || object.VolumeNeeded(v, row) {
			continue
		}
		if len(byNode[row.GetNodeId()]) == 0 {
			nodes = append(nodes, node)
		}
		byNode[row.GetNodeId()] = append(byNode[row.GetNodeId()], row)
	}
	out := &swarmv1.PruneVolumesResponse{}
	var mu sync.Mutex // guards out
	s.nodes.Each(ctx, nodes, dropTimeout, func(ctx context.Context, i int, _ grpc.ClientConnInterface, err error) {
		hostname := object.NodeName(v, nodes[i].GetId())
		for _, row := range byNode[nodes[i].GetId()] {
			reclaimed, err := int64(0), err
			if err == nil {
				reclaimed, err = s.remove(ctx, row, false)
			}
			mu.Lock()
			if err == nil {
				out.Removed = append(out.Removed, &swarmv1.PrunedVolume{Name: row.GetName(), Hostname: hostname, Reclaimed: reclaimed})
			} else if !errdefs.IsFailedPrecondition(err) { // A task has begun to use it.
				out.Errors = append(out.Errors, fmt.Sprintf("volume %s on %s stays: %s", row.GetName(), hostname, nodecall.ErrorText(err)))
			}
			mu.Unlock()
		}
	})
	slices.SortFunc(out.Removed, func(a, b *swarmv1.PrunedVolume) int {
		return strings.Compare(a.GetName()+"\x00"+a.GetHostname(), b.GetName()+"\x00"+b.GetHostname())
	})
	slices.Sort(out.Errors)
	return out, nil
}

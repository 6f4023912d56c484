package volume

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/bounds"
	"swarm/internal/ident"
	"swarm/internal/spec"
	"swarm/manager/control/crud"
	"swarm/manager/control/nodecall"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

const (
	// makeTimeout and dropTimeout limit the call to one node. A volume may have millions of files.
	makeTimeout = 15 * time.Second
	dropTimeout = 5 * time.Minute
)

// Deps are what a Server needs.
type Deps struct {
	Log    *slog.Logger
	Store  *raftstore.Store
	Writer *crud.Writer
	Nodes  *nodecall.Caller
}

// Server serves swarmv1.Volumes.
type Server struct {
	swarmv1.UnimplementedVolumesServer
	log    *slog.Logger
	store  *raftstore.Store
	writer *crud.Writer
	nodes  *nodecall.Caller
}

// New makes a Server.
func New(deps Deps) *Server {
	return &Server{log: deps.Log, store: deps.Store, writer: deps.Writer, nodes: deps.Nodes}
}

// ListVolumes returns the volumes that the filter matches, ordered by name and node.
func (s *Server) ListVolumes(_ context.Context, req *swarmv1.ListVolumesRequest) (*swarmv1.ListVolumesResponse, error) {
	v := s.store.View()
	filter, err := object.ResolveFilter(v, req.GetFilter())
	if err != nil {
		return nil, err
	}
	out := &swarmv1.ListVolumesResponse{}
	for _, row := range matching(v, filter) {
		out.Volumes = append(out.Volumes, info(v, row))
	}
	return out, nil
}

// matching returns the volumes that a filter matches, ordered by name and by the name of the node.
func matching(v *table.View, filter *swarmv1.Filter) []*swarmv1.Volume {
	var out []*swarmv1.Volume
	for row := range v.Volumes.All() {
		if crud.Matches(filter, object.VolumeSubject(v, row)) {
			out = append(out, row)
		}
	}
	slices.SortFunc(out, func(a, b *swarmv1.Volume) int {
		return cmp.Or(cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(nodeName(v, a), nodeName(v, b)), cmp.Compare(a.GetNodeId(), b.GetNodeId()))
	})
	return out
}

// nodeName returns the name of a volume's node, and "" for a volume on a file server.
func nodeName(v *table.View, row *swarmv1.Volume) string {
	if row.GetNodeId() == "" {
		return ""
	}
	return object.NodeName(v, row.GetNodeId())
}

func info(v *table.View, row *swarmv1.Volume) *swarmv1.VolumeInfo {
	st, _ := v.NodeStates.Get(row.GetNodeId())
	out := &swarmv1.VolumeInfo{
		Volume: object.ShownVolume(row), Hostname: nodeName(v, row), InUse: object.VolumeNeeded(v, row),
		Unreachable: row.GetNodeId() != "" && st.GetState() != swarmv1.NodeState_READY,
	}
	out.Tasks, out.Waiting = object.VolumeUsers(v, row)
	out.InUse = out.InUse || len(out.Tasks) > 0
	return out
}

// CreateVolume makes a volume on a node, or accepts the one with the same name and driver options
// that the node has. Without a node it makes a volume on a file server.
//
// It returns ErrInvalidArgument if the volume is not valid, or needs a node; ErrAlreadyExists if a
// volume with other options has the name; and ErrUnavailable if the node does not answer.
func (s *Server) CreateVolume(ctx context.Context, req *swarmv1.CreateVolumeRequest) (*swarmv1.VolumeInfo, error) {
	want := &swarmv1.Volume{Name: req.GetVolume().GetName(), Driver: req.GetVolume().GetDriver(), Labels: req.GetVolume().GetLabels()}
	if err := spec.Volume(want); err != nil {
		return nil, err
	}
	if req.GetNode() == "" && spec.IsSharedVolume(want.GetDriver()) {
		return s.createShared(ctx, want)
	}
	node, err := s.nodeFor(want.GetName(), req.GetNode())
	if err != nil {
		return nil, err
	}
	if err := sharedFree(s.store.View(), want.GetName()); err != nil {
		return nil, err
	}
	var made *swarmv1.Volume
	err = s.call(ctx, node, makeTimeout, func(ctx context.Context, c swarmv1.NodeVolumesClient) error {
		answer, err := c.Make(ctx, &swarmv1.MakeVolumeRequest{Volume: want})
		made = bounds.Volume(answer.GetVolume())
		made.Name = want.GetName()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create volume %s on %s: %w", want.GetName(), object.NodeName(s.store.View(), node.GetId()), err)
	}
	s.log.Info("volume created", "volume", want.GetName(), "node", node.GetId(), "actor", crud.Actor(ctx))
	return s.record(ctx, node.GetId(), made)
}

// record writes the row of a volume that a node has made for a user.
func (s *Server) record(ctx context.Context, node string, made *swarmv1.Volume) (*swarmv1.VolumeInfo, error) {
	key := table.VolumeKey(node, made.GetName())
	_, err := s.writer.Write(ctx, 0, func(v *table.View) ([]*swarmv1.Change, error) {
		if err := sharedFree(v, made.GetName()); err != nil {
			return nil, err
		}
		old, ok := v.Volumes.Get(key)
		row := &swarmv1.Volume{NodeId: node, Name: made.GetName()}
		if ok {
			row = old.CloneVT()
		}
		row.Driver, row.Labels, row.CreatedAt, row.Mountpoint = made.GetDriver(), made.GetLabels(), made.GetCreatedAt(), made.GetMountpoint()
		row.Reported, row.Accepted = true, true
		switch {
		case !ok:
			return []*swarmv1.Change{table.Create(row)}, nil
		case row.EqualVT(old):
			return nil, nil
		}
		return []*swarmv1.Change{table.Update(row)}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("create volume %s: %w", made.GetName(), err)
	}
	return s.stored(key)
}

// stored returns the volume with a key, which was written just now.
func (s *Server) stored(key string) (*swarmv1.VolumeInfo, error) {
	v := s.store.View()
	row, ok := v.Volumes.Get(key)
	if !ok {
		return nil, errdefs.ErrNotFound.WithMessage("the volume was removed meanwhile")
	}
	return info(v, row), nil
}

// createShared writes the row of a volume on a file server.
func (s *Server) createShared(ctx context.Context, want *swarmv1.Volume) (*swarmv1.VolumeInfo, error) {
	key := table.VolumeKey("", want.GetName())
	_, err := s.writer.Write(ctx, 0, func(v *table.View) ([]*swarmv1.Change, error) {
		if old, ok := v.Volumes.Get(key); ok {
			if old.GetDriver().EqualVT(want.GetDriver()) {
				return nil, nil
			}
			return nil, errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("volume %s exists already with other driver options: remove it, or choose another name", want.GetName()))
		}
		var nodes []string
		for row := range object.VolumesNamed(v, want.GetName()) {
			nodes = append(nodes, nodeName(v, row))
		}
		if len(nodes) > 0 {
			slices.Sort(nodes)
			return nil, errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf(
				"volume %s exists already on %s: remove it, or choose another name", want.GetName(), strings.Join(nodes, ", ")))
		}
		row := want.CloneVT()
		row.Accepted, row.Reported = true, true
		return []*swarmv1.Change{table.Create(row)}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("create volume %s: %w", want.GetName(), err)
	}
	s.log.Info("volume created", "volume", want.GetName(), "actor", crud.Actor(ctx))
	return s.stored(key)
}

// sharedFree returns ErrAlreadyExists if a volume on a file server has the name.
func sharedFree(v *table.View, name string) error {
	if _, ok := v.Volumes.Get(table.VolumeKey("", name)); ok {
		return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("volume %s exists already, on a file server for all nodes: choose another name", name))
	}
	return nil
}

// nodeFor returns the node on which a volume is to be made. A cluster of one node needs no ref.
func (s *Server) nodeFor(volume, ref string) (*swarmv1.Node, error) {
	v := s.store.View()
	if ref != "" {
		return s.nodes.Find(v, ref)
	}
	all := slices.Collect(v.Nodes.All())
	if len(all) != 1 {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
			"volume %s needs a node: name it with --node, or let the service that mounts the volume make it where its task runs", volume))
	}
	return all[0], nil
}

// call calls the volume service of one node.
func (s *Server) call(ctx context.Context, node *swarmv1.Node, timeout time.Duration, fn func(context.Context, swarmv1.NodeVolumesClient) error) (result error) {
	s.nodes.Each(ctx, []*swarmv1.Node{node}, timeout, func(ctx context.Context, _ int, conn grpc.ClientConnInterface, err error) {
		if err == nil {
			err = fn(ctx, swarmv1.NewNodeVolumesClient(conn))
		}
		result = err
	})
	return result
}

// checkName returns an error for a name that no volume can have.
func checkName(name string) error { return ident.CheckVolumeName(name) }

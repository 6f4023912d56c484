package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/bounds"
	"swarm/internal/spec"
	"swarm/manager/control/crud"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
)

// connect returns the volume service of a node that is ready. The calls of the caller end with its
// own context: an archive may be of any size.
func (s *Server) connect(nodeID string) (swarmv1.NodeVolumesClient, error) {
	v := s.store.View()
	if st, _ := v.NodeStates.Get(nodeID); st.GetState() != swarmv1.NodeState_READY {
		return nil, errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("node %s is %s: bring it back first", object.NodeName(v, nodeID), strings.ToLower(st.GetState().String())))
	}
	conn, err := s.nodes.Conn(nodeID)
	if err != nil {
		return nil, err
	}
	return swarmv1.NewNodeVolumesClient(conn), nil
}

// export returns the stream of an archive of the volume that a request names.
func (s *Server) export(ctx context.Context, req *swarmv1.BackupVolumeRequest) (grpc.ServerStreamingClient[swarmv1.VolumeChunk], error) {
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
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the files of volume %s are on a file server, %s: make the backup there", row.GetName(), row.GetDriver().GetOptions()["device"]))
	}
	node, err := s.connect(row.GetNodeId())
	if err != nil {
		return nil, err
	}
	return node.Export(ctx, &swarmv1.ExportVolumeRequest{Name: row.GetName()})
}

// chunk returns the next piece of an archive. It returns io.EOF at the end.
func chunk(from interface {
	Recv() (*swarmv1.VolumeChunk, error)
},
) ([]byte, error) {
	m, err := from.Recv()
	if err != nil {
		return nil, err
	}
	if n := len(m.GetData()); n > bounds.MaxOutput {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the node sends a piece of %d bytes, at most %d are allowed", n, bounds.MaxOutput))
	}
	return m.GetData(), nil
}

// BackupVolume sends an archive of a volume. Tasks may use the volume meanwhile.
func (s *Server) BackupVolume(req *swarmv1.BackupVolumeRequest, stream grpc.ServerStreamingServer[swarmv1.VolumeChunk]) error {
	from, err := s.export(stream.Context(), req)
	if err != nil {
		return err
	}
	for {
		data, err := chunk(from)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("back up volume %s: %w", req.GetName(), err)
		}
		if err := stream.Send(&swarmv1.VolumeChunk{Data: data}); err != nil {
			return err
		}
	}
}

// importer sends an archive to the node on which a volume is to be made from it.
type importer struct {
	s      *Server
	node   string
	name   string
	stream grpc.ClientStreamingClient[swarmv1.RestoreVolumeRequest, swarmv1.MakeVolumeResponse]
}

// importTo begins to make a volume. It returns the errors of CreateVolume, and
// ErrFailedPrecondition if tasks use the volume that is to be replaced.
func (s *Server) importTo(ctx context.Context, start *swarmv1.RestoreVolumeStart) (*importer, error) {
	want := &swarmv1.Volume{Name: start.GetVolume().GetName(), Labels: start.GetVolume().GetLabels()}
	if err := spec.Volume(want); err != nil {
		return nil, err
	}
	if err := s.writer.CatchUp(ctx); err != nil {
		return nil, err
	}
	v := s.store.View()
	if err := sharedFree(v, want.GetName()); err != nil {
		return nil, err
	}
	node, err := s.nodeFor(want.GetName(), start.GetNode())
	if err != nil {
		return nil, err
	}
	for row := range object.VolumesNamed(v, want.GetName()) {
		if row.GetNodeId() != node.GetId() {
			continue
		}
		if err := checkUnused(v, row, true); err != nil {
			return nil, err
		}
	}
	c, err := s.connect(node.GetId())
	if err != nil {
		return nil, err
	}
	stream, err := c.Import(ctx)
	if err != nil {
		return nil, err
	}
	first := &swarmv1.RestoreVolumeStart{Volume: want, Replace: start.GetReplace()}
	err = stream.Send(&swarmv1.RestoreVolumeRequest{Message: &swarmv1.RestoreVolumeRequest_Start{Start: first}})
	return &importer{s: s, node: node.GetId(), name: want.GetName(), stream: stream}, err
}

// send sends a piece of the archive. It returns the node's error if the node has given up.
func (i *importer) send(data []byte) error {
	err := i.stream.Send(&swarmv1.RestoreVolumeRequest{Message: &swarmv1.RestoreVolumeRequest_Data{Data: data}})
	if errors.Is(err, io.EOF) {
		_, err = i.stream.CloseAndRecv()
	}
	return err
}

// end completes the archive, and returns the volume that the node has made.
func (i *importer) end(ctx context.Context) (*swarmv1.VolumeInfo, error) {
	answer, err := i.stream.CloseAndRecv()
	if err != nil {
		return nil, err
	}
	made := bounds.Volume(answer.GetVolume())
	made.Name = i.name
	i.s.log.Info("volume restored", "volume", i.name, "node", i.node, "actor", crud.Actor(ctx))
	return i.s.record(ctx, i.node, made)
}

// RestoreVolume makes a volume from an archive of BackupVolume. The first message of the stream
// names the volume.
func (s *Server) RestoreVolume(stream grpc.ClientStreamingServer[swarmv1.RestoreVolumeRequest, swarmv1.VolumeInfo]) error {
	// If this call ends early, the stream to the node must break: its end would mean that the
	// archive is complete.
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	to, err := s.importTo(ctx, first.GetStart())
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = to.send(m.GetData())
		}
		if err != nil {
			return fmt.Errorf("restore volume %s: %w", to.name, err)
		}
	}
	made, err := to.end(ctx)
	if err != nil {
		return fmt.Errorf("restore volume %s: %w", to.name, err)
	}
	return stream.SendAndClose(made)
}

// CloneVolume copies a volume to another name or node. Tasks may use the source meanwhile.
func (s *Server) CloneVolume(req *swarmv1.CloneVolumeRequest, stream grpc.ServerStreamingServer[swarmv1.CloneVolumeProgress]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	from, err := s.export(ctx, req.GetSource())
	if err != nil {
		return err
	}
	to, err := s.importTo(ctx, req.GetTarget())
	if err != nil {
		return err
	}
	sent := int64(0)
	for {
		data, err := chunk(from)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = to.send(data)
		}
		if err != nil {
			return fmt.Errorf("clone volume %s: %w", req.GetSource().GetName(), err)
		}
		sent += int64(len(data))
		if err := stream.Send(&swarmv1.CloneVolumeProgress{Bytes: sent}); err != nil {
			return err
		}
	}
	made, err := to.end(ctx)
	if err != nil {
		return fmt.Errorf("clone volume %s: %w", req.GetSource().GetName(), err)
	}
	return stream.Send(&swarmv1.CloneVolumeProgress{Bytes: sent, Volume: made})
}

package storage

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/ident"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// SendMoved implements swarmv1.NodeVolumesServer.
func (v *Volumes) SendMoved(stream grpc.BidiStreamingServer[swarmv1.SendMovedRequest, swarmv1.VolumeChunk]) error {
	if v.storage == nil {
		return errNoStorage
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := ident.CheckVolumeName(first.GetStart().GetName()); err != nil {
		return err
	}
	list := &received{next: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetReceived(), err
	}}
	return v.storage.Volumes().SendMoved(stream.Context(), first.GetStart().GetName(), first.GetStart().GetUnused(), list, chunks(func(data []byte) error {
		return stream.Send(&swarmv1.VolumeChunk{Data: data})
	}))
}

// checkStaged returns an error if a request does not name a volume and a move.
func (v *Volumes) checkStaged(m *swarmv1.StagedVolume) error {
	if v.storage == nil {
		return errNoStorage
	}
	if err := ident.CheckID("move", m.GetMove()); err != nil {
		return err
	}
	if m.GetVolume() == nil {
		return fmt.Errorf("move of a volume without a name: %w", errdefs.ErrInvalidArgument)
	}
	return spec.Volume(m.GetVolume()) // The name becomes the name of a folder.
}

// ListReceived implements swarmv1.NodeVolumesServer.
func (v *Volumes) ListReceived(req *swarmv1.StagedVolume, stream grpc.ServerStreamingServer[swarmv1.VolumeChunk]) error {
	if err := v.checkStaged(req); err != nil {
		return err
	}
	return v.storage.Volumes().ListReceived(stream.Context(), req.GetVolume().GetName(), req.GetMove(), chunks(func(data []byte) error {
		return stream.Send(&swarmv1.VolumeChunk{Data: data})
	}))
}

// ReceiveMoved implements swarmv1.NodeVolumesServer.
func (v *Volumes) ReceiveMoved(stream grpc.ClientStreamingServer[swarmv1.ReceiveMovedRequest, swarmv1.ReceiveMovedResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := v.checkStaged(first.GetStart()); err != nil {
		return err
	}
	archive := &received{next: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	}}
	placed, err := v.storage.Volumes().ReceiveMoved(stream.Context(), first.GetStart().GetVolume().GetName(), first.GetStart().GetMove(), archive)
	if err != nil {
		return err
	}
	return stream.SendAndClose(&swarmv1.ReceiveMovedResponse{Placed: placed})
}

// PlaceMoved implements swarmv1.NodeVolumesServer.
func (v *Volumes) PlaceMoved(_ context.Context, req *swarmv1.StagedVolume) (*swarmv1.PlaceMovedResponse, error) {
	if err := v.checkStaged(req); err != nil {
		return nil, err
	}
	if err := v.storage.Volumes().PlaceMoved(req.GetVolume(), req.GetMove()); err != nil {
		return nil, err
	}
	v.log.Info("volume moved to this node", "volume", req.GetVolume().GetName())
	return &swarmv1.PlaceMovedResponse{}, nil
}

// DiscardMoved implements swarmv1.NodeVolumesServer. What was received is removed to its end.
func (v *Volumes) DiscardMoved(ctx context.Context, req *swarmv1.StagedVolume) (*swarmv1.DiscardMovedResponse, error) {
	if err := v.checkStaged(req); err != nil {
		return nil, err
	}
	if err := v.storage.Volumes().DiscardMoved(context.WithoutCancel(ctx), req.GetVolume().GetName(), req.GetMove()); err != nil {
		return nil, err
	}
	return &swarmv1.DiscardMovedResponse{}, nil
}

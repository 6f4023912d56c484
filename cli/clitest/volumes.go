package clitest

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

// VolumeServer returns a server with a volume on two nodes, one on a node that is away, and one on
// a file server.
func VolumeServer() *Server {
	at := timestamppb.New(time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC))
	local := &swarmv1.Driver{Name: "local"}
	return &Server{Volumes: []*swarmv1.VolumeInfo{
		{
			Hostname: "host1", InUse: true, Tasks: []string{"web.1", "web.2", "web.3", "web.4"},
			Volume: &swarmv1.Volume{
				NodeId: "n1", Name: "data", Driver: local, CreatedAt: at, Size: 12_345_678, MeasuredAt: at, Reported: true,
				Labels: map[string]string{"tier": "db"}, Mountpoint: "/var/lib/swarm/volumes/data/_data",
			},
		},
		{Hostname: "host2", InUse: true, Waiting: []string{"web.5"}, Unreachable: true, Volume: &swarmv1.Volume{NodeId: "n2", Name: "data", Driver: local, CreatedAt: at, Reported: true}},
		{Hostname: "host1", Volume: &swarmv1.Volume{NodeId: "n1", Name: "old", Driver: local, CreatedAt: at, Reported: true}},
		{Volume: &swarmv1.Volume{Name: "share", Reported: true, Driver: &swarmv1.Driver{Options: map[string]string{"type": "nfs", "device": ":/export", "o": "addr=10.0.0.9"}}}},
	}}
}

// volumesServer has the volumes of the fake's nodes.
type volumesServer struct {
	swarmv1.UnimplementedVolumesServer
	fake *Server
}

func (s volumesServer) ListVolumes(_ context.Context, r *swarmv1.ListVolumesRequest) (*swarmv1.ListVolumesResponse, error) {
	s.fake.mu.Lock()
	defer s.fake.mu.Unlock()
	out := &swarmv1.ListVolumesResponse{}
	for _, v := range s.fake.Volumes {
		fits := func(want []string, have string) bool { return len(want) == 0 || slices.Contains(want, have) }
		if fits(r.GetFilter().GetNames(), v.GetVolume().GetName()) && fits(r.GetFilter().GetNodeIds(), v.GetHostname()) {
			out.Volumes = append(out.Volumes, v)
		}
	}
	return out, nil
}

func (s volumesServer) CreateVolume(_ context.Context, r *swarmv1.CreateVolumeRequest) (*swarmv1.VolumeInfo, error) {
	s.fake.mu.Lock()
	defer s.fake.mu.Unlock()
	s.fake.VolumeReqs = append(s.fake.VolumeReqs, r)
	return &swarmv1.VolumeInfo{Volume: r.GetVolume()}, nil
}

func (s volumesServer) RemoveVolume(_ context.Context, r *swarmv1.RemoveVolumeRequest) (*swarmv1.RemoveVolumeResponse, error) {
	s.fake.mu.Lock()
	defer s.fake.mu.Unlock()
	for _, v := range s.fake.Volumes {
		switch {
		case v.GetVolume().GetName() != r.GetName():
		case len(v.GetTasks()) > 0:
			return nil, status.Errorf(codes.FailedPrecondition, "volume %s is in use by tasks on %s", r.GetName(), v.GetHostname())
		default:
			s.fake.Removed = append(s.fake.Removed, r.GetName())
			return &swarmv1.RemoveVolumeResponse{}, nil
		}
	}
	return nil, NotFound("volume", r.GetName())
}

func (s volumesServer) PruneVolumes(context.Context, *swarmv1.PruneVolumesRequest) (*swarmv1.PruneVolumesResponse, error) {
	return &swarmv1.PruneVolumesResponse{
		Removed: []*swarmv1.PrunedVolume{{Name: "old", Hostname: "host1", Reclaimed: 2_000_000}},
		Errors:  []string{"volume x on host2 stays: it is down"},
	}, nil
}

// Archive is what the fake sends as the archive of a volume.
const Archive = "archive\x00\xff"

func (s volumesServer) BackupVolume(r *swarmv1.BackupVolumeRequest, stream swarmv1.Volumes_BackupVolumeServer) error {
	if r.GetName() != "data" {
		return NotFound("volume", r.GetName())
	}
	for _, part := range []string{Archive[:3], Archive[3:]} {
		if err := stream.Send(&swarmv1.VolumeChunk{Data: []byte(part)}); err != nil {
			return err
		}
	}
	return nil
}

func (s volumesServer) RestoreVolume(stream swarmv1.Volumes_RestoreVolumeServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	var data []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		data = append(data, m.GetData()...)
	}
	if string(data) != Archive {
		return status.Errorf(codes.InvalidArgument, "the archive is broken or not complete: %q", data)
	}
	s.fake.mu.Lock()
	defer s.fake.mu.Unlock()
	s.fake.Restored = append(s.fake.Restored, first.GetStart())
	return stream.SendAndClose(&swarmv1.VolumeInfo{Volume: first.GetStart().GetVolume()})
}

func (s volumesServer) CloneVolume(r *swarmv1.CloneVolumeRequest, stream swarmv1.Volumes_CloneVolumeServer) error {
	s.fake.mu.Lock()
	s.fake.Restored = append(s.fake.Restored, r.GetTarget())
	s.fake.mu.Unlock()
	if err := stream.Send(&swarmv1.CloneVolumeProgress{Bytes: 1000}); err != nil {
		return err
	}
	return stream.Send(&swarmv1.CloneVolumeProgress{Bytes: 2000, Volume: &swarmv1.VolumeInfo{Volume: r.GetTarget().GetVolume()}})
}

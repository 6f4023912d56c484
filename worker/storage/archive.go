package storage

import (
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/ident"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// chunkSize is the length of the pieces of an archive, which fit into a worker's messages.
const chunkSize = 128 << 10

// Export implements swarmv1.NodeVolumesServer. It sends an archive of a volume.
func (v *Volumes) Export(req *swarmv1.ExportVolumeRequest, stream grpc.ServerStreamingServer[swarmv1.VolumeChunk]) error {
	if v.storage == nil {
		return errNoStorage
	}
	if err := ident.CheckVolumeName(req.GetName()); err != nil {
		return err
	}
	return v.storage.Volumes().Export(stream.Context(), req.GetName(), chunks(func(data []byte) error {
		return stream.Send(&swarmv1.VolumeChunk{Data: data})
	}))
}

// chunks is a writer that sends what is written to it, in pieces of at most chunkSize.
type chunks func(data []byte) error

func (send chunks) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), chunkSize)
		if err := send(append([]byte(nil), rest[:n]...)); err != nil { // gRPC may keep the data.
			return len(p) - len(rest), err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// Import implements swarmv1.NodeVolumesServer. It makes a volume from the archive that it receives.
func (v *Volumes) Import(stream grpc.ClientStreamingServer[swarmv1.RestoreVolumeRequest, swarmv1.MakeVolumeResponse]) error {
	if v.storage == nil {
		return errNoStorage
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	want := first.GetStart().GetVolume()
	if want == nil {
		return fmt.Errorf("import: the first message must name a volume: %w", errdefs.ErrInvalidArgument)
	}
	if err := spec.Volume(want); err != nil { // The name becomes the name of a folder.
		return err
	}
	archive := &received{next: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	}}
	made, err := v.storage.Volumes().Import(stream.Context(), want, first.GetStart().GetReplace(), archive)
	if err != nil {
		return err
	}
	v.log.Info("volume made from an archive", "volume", made.GetName())
	return stream.SendAndClose(&swarmv1.MakeVolumeResponse{Volume: made})
}

// received is a reader of the pieces that next returns.
type received struct {
	next func() ([]byte, error)
	rest []byte
}

func (r *received) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		data, err := r.next()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
		r.rest = data
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

package storage

import (
	"context"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
	"swarm/internal/pause"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

const (
	// firstMeasure is when the sizes of volumes are measured after the daemon has started.
	firstMeasure = 30 * time.Second
	// measureInterval is the time between two measurements, and measurePart the least part of the
	// time in which none runs: containers may have made millions of files.
	measureInterval = 10 * time.Minute
	measurePart     = 100
	// cleanTimeout limits the wait for the removal of containers that use a volume, and cleanPoll
	// is the time between two looks.
	cleanTimeout = 10 * time.Second
	cleanPoll    = 100 * time.Millisecond
)

// Volumes makes and removes the volumes with a name of a node for its managers, and measures their
// sizes. Its methods may be called concurrently.
type Volumes struct {
	swarmv1.UnimplementedNodeVolumesServer
	log     *slog.Logger
	storage engine.Storage // nil: containers are simulated
}

// NewVolumes returns a Volumes. storage is nil if containers are simulated. Volumes measures
// nothing before Run.
func NewVolumes(log *slog.Logger, storage engine.Storage) *Volumes {
	return &Volumes{log: log, storage: storage}
}

// Run measures the sizes of the volumes every measureInterval until ctx ends. It returns nil.
func (v *Volumes) Run(ctx context.Context) error {
	if v.storage == nil {
		return nil
	}
	next := time.NewTimer(firstMeasure)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-ctx.Done():
			return nil
		}
		began := time.Now()
		if _, err := v.storage.VolumeSizes(ctx); err != nil && ctx.Err() == nil {
			v.log.Warn("measure volumes", "err", err)
		}
		next.Reset(max(measureInterval, measurePart*time.Since(began)))
	}
}

// Make implements swarmv1.NodeVolumesServer. It makes a volume, or returns the one that exists.
func (v *Volumes) Make(_ context.Context, req *swarmv1.MakeVolumeRequest) (*swarmv1.MakeVolumeResponse, error) {
	if v.storage == nil {
		return nil, errNoStorage
	}
	if err := spec.Volume(req.GetVolume()); err != nil { // The name becomes the name of a folder.
		return nil, err
	}
	made, err := v.storage.Volumes().Create(req.GetVolume())
	if err != nil {
		return nil, err
	}
	v.log.Info("volume made", "volume", made.GetName())
	return &swarmv1.MakeVolumeResponse{Volume: made}, nil
}

// remove removes a volume. The manager has found no task that uses it, so a container that does is
// being removed at this moment: remove waits for that.
func (v *Volumes) remove(ctx context.Context, name string) (reclaimed int64, err error) {
	wait, cancel := context.WithTimeout(ctx, cleanTimeout)
	defer cancel()
	for {
		// The removal goes on if ctx ends, because half a volume is of no use.
		reclaimed, err = v.storage.Volumes().Remove(context.WithoutCancel(ctx), name)
		if !errdefs.IsFailedPrecondition(err) || pause.For(wait, cleanPoll) != nil {
			return reclaimed, err
		}
	}
}

// Drop implements swarmv1.NodeVolumesServer. It removes a volume with its data.
func (v *Volumes) Drop(ctx context.Context, req *swarmv1.DropVolumeRequest) (*swarmv1.DropVolumeResponse, error) {
	if v.storage == nil {
		return nil, errNoStorage
	}
	if err := ident.CheckVolumeName(req.GetName()); err != nil {
		return nil, err
	}
	reclaimed, err := v.remove(ctx, req.GetName())
	if errdefs.IsNotFound(err) {
		return &swarmv1.DropVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	v.log.Info("volume removed", "volume", req.GetName(), "bytes", reclaimed)
	return &swarmv1.DropVolumeResponse{Reclaimed: reclaimed}, nil
}

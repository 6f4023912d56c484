package storage

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// busyVolumes is a volume that a container uses until a time.
type busyVolumes struct {
	engine.Volumes
	until time.Time
}

func (b *busyVolumes) Remove(context.Context, string) (int64, error) {
	if time.Now().Before(b.until) {
		return 0, errdefs.ErrFailedPrecondition
	}
	return 7, nil
}

// storageOf is a Storage with these volumes.
type storageOf struct {
	engine.Storage
	volumes engine.Volumes
}

func (s storageOf) Volumes() engine.Volumes { return s.volumes }

// A container that is being removed still uses its volume for a moment.
func TestVolumes_DropWaitsForContainers(t *testing.T) {
	for busy, want := range map[time.Duration]bool{0: true, 3 * time.Second: true, time.Minute: false} {
		synctest.Test(t, func(t *testing.T) {
			v := NewVolumes(slog.New(slog.DiscardHandler), storageOf{volumes: &busyVolumes{until: time.Now().Add(busy)}})
			got, err := v.Drop(t.Context(), &swarmv1.DropVolumeRequest{Name: "data"})
			if (err == nil) != want || want && got.GetReclaimed() != 7 || !want && !errdefs.IsFailedPrecondition(err) {
				t.Errorf("busy for %s: got %v, %v", busy, got, err)
			}
		})
	}
	if _, err := NewVolumes(nil, nil).Drop(t.Context(), nil); !errdefs.IsNotImplemented(err) {
		t.Errorf("simulated containers: %v", err)
	}
	v := NewVolumes(slog.New(slog.DiscardHandler), storageOf{})
	if _, err := v.Drop(t.Context(), &swarmv1.DropVolumeRequest{Name: "../x"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a path: %v", err)
	}
	if _, err := v.Make(t.Context(), &swarmv1.MakeVolumeRequest{Volume: &swarmv1.Volume{Name: "../x"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a path: %v", err)
	}
}

func TestChunks(t *testing.T) {
	var parts [][]byte
	send := chunks(func(data []byte) error {
		parts = append(parts, data)
		return nil
	})
	data := bytes.Repeat([]byte("x"), chunkSize+5)
	if n, err := send.Write(data); n != len(data) || err != nil || len(parts) != 2 || len(parts[1]) != 5 {
		t.Errorf("got %d, %v, %d parts", n, err, len(parts))
	}
	broken := errors.New("broken")
	r := &received{next: func() ([]byte, error) {
		if len(parts) == 0 {
			return nil, broken
		}
		part := parts[0]
		parts = parts[1:]
		return part, nil
	}}
	if got, err := io.ReadAll(r); len(got) != len(data) || !errors.Is(err, broken) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

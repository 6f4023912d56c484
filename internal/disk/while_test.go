package disk_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"swarm/internal/disk"
)

func TestWhileRoom(t *testing.T) {
	full, damaged := errors.New("full"), errors.New("damaged")
	for what, c := range map[string]struct {
		free time.Duration // until the disk is full
		do   func(context.Context) error
		want error
	}{
		"it fits":            {time.Hour, func(context.Context) error { time.Sleep(time.Minute); return nil }, nil},
		"it fails by itself": {time.Hour, func(context.Context) error { time.Sleep(time.Minute); return damaged }, damaged},
		"the disk fills":     {time.Minute, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, full},
		"it still ends":      {time.Minute, func(ctx context.Context) error { <-ctx.Done(); return nil }, nil},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				room := func(bytes int64) error {
					if bytes > 0 && time.Since(began) >= c.free {
						return full
					}
					return nil
				}
				if err := disk.WhileRoom(t.Context(), room, c.do); !errors.Is(err, c.want) || c.want == nil && err != nil {
					t.Errorf("got %v, want %v", err, c.want)
				}
			})
		})
	}
	if err := disk.WhileRoom(t.Context(), nil, func(context.Context) error { return damaged }); !errors.Is(err, damaged) {
		t.Errorf("without a watch: got %v", err)
	}
}

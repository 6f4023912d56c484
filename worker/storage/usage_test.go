package storage

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Only one call at a time makes the node add up the sizes of millions of files.
func TestDisk_MeasuresOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at, answered atomic.Int32
		f := &fakeDisk{counting: func() {
			if n := at.Add(1); n > 1 {
				t.Errorf("%d look at the disk at once", n)
			}
			time.Sleep(time.Minute)
			at.Add(-1)
		}}
		d := newTestDisk(t, f, Config{})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
				defer cancel()
				_, err := d.Usage(ctx, nil)
				if err == nil {
					answered.Add(1)
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := answered.Load(); n != 3 {
			t.Errorf("%d are answered, want 3", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wg.Go(func() { _, _ = d.Usage(t.Context(), nil) })
		synctest.Wait()
		if _, err := d.Usage(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("whoever waits too long: got %v", err)
		}
		wg.Wait()
	})
}

package disk

import (
	"context"
	"sync"
	"time"
)

// roomInterval is the time between two checks of the disk while data of unknown size is written to
// it.
const roomInterval = 50 * time.Millisecond

// WhileRoom runs do, which writes data of unknown size. It cancels the context of do when room, for
// example Watch.Room, refuses another byte. It then returns the error of room, unless do succeeded
// nevertheless. A nil room never refuses.
func WhileRoom(ctx context.Context, room func(bytes int64) error, do func(context.Context) error) error {
	if room == nil {
		return do(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var refused error // read when watch is done
	var watch sync.WaitGroup
	ended := make(chan struct{})
	watch.Go(func() {
		tick := time.NewTicker(roomInterval)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				if refused = room(1); refused != nil {
					cancel()
					return
				}
			}
		}
	})
	err := do(ctx)
	close(ended)
	watch.Wait()
	if err != nil && refused != nil {
		return refused
	}
	return err
}

package disk

import (
	"context"
	"sync"
	"time"
)

// roomInterval is the time between two checks of the disk while data of unknown size is written to
// it.
const roomInterval = 50 * time.Millisecond

// WhileRoom runs do, which writes data of unknown size. Several times a second, it asks room (for
// example Watch.Room) for one more byte. If room returns an error, WhileRoom cancels the context of
// do, and returns that error if do fails too. If room is nil, WhileRoom only runs do.
func WhileRoom(ctx context.Context, room func(bytes int64) error, do func(context.Context) error) error {
	if room == nil {
		return do(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var refused error // the error of room; read only after watch.Wait
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

package disk

import (
	"context"
	"sync"
	"time"
)

// lookForRoom is how often the disk is looked at while something of unknown size is written to it.
const lookForRoom = 50 * time.Millisecond

// WhileRoom runs do, which writes something of unknown size, and cancels its context when room, such as Watch.Room, refuses
// one byte more. It then returns what room said, unless do succeeded all the same. A nil room never refuses.
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
		tick := time.NewTicker(lookForRoom)
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

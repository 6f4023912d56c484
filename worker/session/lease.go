package session

import (
	"context"
	"fmt"
	"time"

	"swarm/internal/pause"
)

// LeaseLeft returns how long single-writer tasks may still run undisturbed. It ends a quarter of
// the lease before the lease itself: a task has that quarter to stop by itself before its shim
// kills it.
func (c *Client) LeaseLeft() time.Duration {
	return c.deps.Lease.Left() - time.Duration(c.leaseLength.Load())/4
}

// AwaitLeaseLost waits until LeaseLeft is 0, and returns an error that tells the user so. It
// returns the error of ctx if that ends first.
func (c *Client) AwaitLeaseLost(ctx context.Context) error {
	for {
		left := c.LeaseLeft()
		if left <= 0 {
			length := time.Duration(c.leaseLength.Load())
			return fmt.Errorf("fenced: no manager has confirmed for %s that this node is in contact, and another node may take over", length-c.deps.Lease.Left().Round(time.Millisecond))
		}
		// Timers do not count the time for which a machine is suspended, so look at the clock
		// often.
		if err := pause.For(ctx, min(left, time.Second)); err != nil {
			return err
		}
	}
}

// renew moves the end of the lease of single-writer tasks.
func (c *Client) renew(end time.Duration) {
	if err := c.deps.Lease.Renew(end); err != nil {
		c.deps.Log.Error("single-writer tasks may be killed", "err", err)
	}
}

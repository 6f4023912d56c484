package session

import (
	"context"
	"fmt"
	"time"

	"swarm/internal/pause"
)

// LeaseLeft returns for how long this node lets its single-writer tasks run if no manager confirms
// a heartbeat. This is the rest of the lease without its last quarter. In the last quarter the
// tasks stop, and when the lease ends their shims kill them. LeaseLeft is never negative.
func (c *Client) LeaseLeft() time.Duration {
	return max(c.deps.Lease.Left()-time.Duration(c.leaseLength.Load())/4, 0)
}

// AwaitLeaseLost waits until LeaseLeft is 0, and returns an error whose text tells this to the
// user. If ctx ends first, it returns the error of ctx.
func (c *Client) AwaitLeaseLost(ctx context.Context) error {
	for {
		left := c.LeaseLeft()
		if left == 0 {
			unconfirmed := time.Duration(c.leaseLength.Load()) - c.deps.Lease.Left()
			return fmt.Errorf("fenced: for %s no manager has confirmed that this node is in contact, and another node may take over", unconfirmed.Round(time.Millisecond))
		}
		// Timers stand still while a machine is suspended, but the lease runs on. So read the clock
		// at least once a second.
		if err := pause.For(ctx, min(left, time.Second)); err != nil {
			return err
		}
	}
}

// renew moves the end of the lease to a time since boot.
func (c *Client) renew(end time.Duration) {
	if err := c.deps.Lease.Renew(end); err != nil {
		c.deps.Log.Error("single-writer tasks may be killed", "err", err)
	}
}

//go:build linux

package plane

import (
	"context"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"swarm/overlay/directory"
)

// A container that is privileged may keep its own namespace from being written. That does not keep the host from saying that the
// rest is in force, and it ends when the namespace can be written again.
func TestATasksOwnTroubleIsNotTheHosts(t *testing.T) {
	run(t, func(p *Plane, d *directory.Directory, k *kernel, settled func() []string) {
		d.Apply(world())
		if _, err := p.Attach(context.Background(), attachment()); err != nil {
			t.Fatal(err)
		}
		settled()
		allow := func(err error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.fail["update"], k.fail["program"] = err, err
		}
		allow(syscall.EPERM)
		d.Apply(puts(backend("t2", "n2", "10.0.1.4/24", false)))
		if err := p.InForce(context.Background()); err == nil {
			t.Error("a namespace failed once, which may be the host's trouble, and InForce returns")
		}
		time.Sleep((ownTrouble + 1) * retryAfter) // in the bubble
		synctest.Wait()
		if err := p.InForce(context.Background()); err != nil {
			t.Errorf("after some attempts: %v", err)
		}
		if got := settled(); !slices.Contains(got, "program /ns/t1 [{[10.0.1.2] [10.0.1.3]}]") {
			t.Errorf("it is not tried again: %q", got)
		}
		allow(nil)
		time.Sleep(retryAfter)
		settled()
		time.Sleep(5 * retryAfter)
		if got := settled(); len(got) > 0 {
			t.Errorf("after it has been written: %q", got)
		}
	})
}

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

// A privileged container can make its own namespace fail to be written. The host must still report
// that the other changes are programmed, and must write the namespace when that works again.
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
		if err := p.Programmed(context.Background()); err == nil {
			t.Error("a namespace failed once, which may be the host's trouble, and Programmed returns nil")
		}
		time.Sleep((maxTaskFailures + 1) * retryInterval) // in the bubble
		synctest.Wait()
		if err := p.Programmed(context.Background()); err != nil {
			t.Errorf("after some attempts: %v", err)
		}
		if got := settled(); !slices.Contains(got, "program /ns/t1 [{[10.0.1.2] [10.0.1.3]}]") {
			t.Errorf("it is not tried again: %q", got)
		}
		allow(nil)
		time.Sleep(retryInterval)
		settled()
		time.Sleep(5 * retryInterval)
		if got := settled(); len(got) > 0 {
			t.Errorf("after it has been written: %q", got)
		}
	})
}

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
func TestProgrammed_IgnoresABrokenNamespace(t *testing.T) {
	run(t, func(p *Plane, d *directory.Directory, k *kernel, calls func() []string) {
		d.Apply(testCluster())
		if _, err := p.Attach(context.Background(), attachment()); err != nil {
			t.Fatal(err)
		}
		calls()
		allow := func(err error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.fail["update"], k.fail["program"] = err, err
		}
		allow(syscall.EPERM)
		d.Apply(puts(backend("t2", "n2", "10.0.1.4/24", false)))
		if err := p.Programmed(context.Background()); err == nil {
			t.Error("Programmed returns nil after one failure, which may be a problem of the host")
		}
		time.Sleep((maxTaskFailures + 1) * retryInterval) // in the bubble
		synctest.Wait()
		if err := p.Programmed(context.Background()); err != nil {
			t.Errorf("after some attempts: %v", err)
		}
		if got := calls(); !slices.Contains(got, "program /ns/t1 [{[10.0.1.2] [10.0.1.3]}]") {
			t.Errorf("the write is not tried again: %q", got)
		}
		allow(nil)
		time.Sleep(retryInterval)
		calls()
		time.Sleep(5 * retryInterval)
		if got := calls(); len(got) > 0 {
			t.Errorf("after it has been written: %q", got)
		}
	})
}

//go:build linux

package thread

import (
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRun_LeavesTheMainThreadAlone(t *testing.T) {
	var here, all sync.WaitGroup
	here.Add(50)
	for range 50 { // at the same time: every thread that there is takes one
		all.Go(func() {
			if err := Run(func() error {
				here.Done()
				here.Wait()
				if unix.Gettid() == os.Getpid() {
					t.Error("on the main thread, which cannot end")
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

//go:build linux

package footprint

import (
	"context"
	"testing"
	"testing/synctest"
)

// Keep calls trim once after work, when the process has been idle for a period. It does not call
// trim again while the process stays idle. It returns when its context ends.
func TestKeep_TrimsOnceAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*period+period/2)
		defer cancel()
		trims := 0
		Keep(ctx, func() { trims++ })
		if trims != 1 {
			t.Errorf("trims of a process that stays at rest: got %d, want 1", trims)
		}
	})
}

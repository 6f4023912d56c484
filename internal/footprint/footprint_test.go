//go:build linux

package footprint

import (
	"context"
	"testing"
	"testing/synctest"
)

// Keep trims once a process that worked has been quiet for a period, not again while it stays quiet, and ends with its
// context.
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

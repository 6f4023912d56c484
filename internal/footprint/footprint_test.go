//go:build linux

package footprint

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
)

// Keep frees once a process that worked has been quiet for a period, not again while it stays quiet, forgets its start
// afterwards, and ends with its context.
func TestKeep_FreesOnceAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*period+period/2)
		defer cancel()
		var did []string
		Keep(ctx, func() { did = append(did, "free") }, func() { did = append(did, "forget") })
		if want := []string{"free", "forget"}; !slices.Equal(did, want) {
			t.Errorf("of a process that stays at rest: got %q, want %q", did, want)
		}
	})
}

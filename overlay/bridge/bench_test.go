//go:build linux

package bridge_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"swarm/overlay/bridge"
	"swarm/overlay/netns"
)

// BenchmarkAttach attaches one more task to a network in use. BenchmarkFirst creates and removes
// the network with each task.
func BenchmarkAttach(b *testing.B) { benchmark(b, true) }
func BenchmarkFirst(b *testing.B)  { benchmark(b, false) }

func benchmark(b *testing.B, inUse bool) {
	if os.Getuid() != 0 {
		b.Skip("needs root: the host is a network namespace")
	}
	path := filepath.Join(b.TempDir(), "host.ns")
	if err := netns.Create(path); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = netns.Delete(path) }()
	host, err := netns.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer host.Close()
	n, err := bridge.New(bridge.Config{NetnsDir: filepath.Join(b.TempDir(), "netns")}, bridge.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	err = host.Do(func() error {
		defer func() { _ = n.Purge(ctx) }()
		if inUse {
			if _, err := n.Attach(ctx, bridge.Attachment{TaskID: "keep"}); err != nil {
				return err
			}
		}
		var detach time.Duration
		for i := 0; b.Loop(); i++ {
			id := fmt.Sprint("t", i)
			if _, err := n.Attach(ctx, bridge.Attachment{TaskID: id, Ports: []bridge.Port{{Target: 80}}}); err != nil {
				return err
			}
			b.StopTimer()
			start := time.Now()
			if err := n.Detach(ctx, id); err != nil {
				return err
			}
			detach += time.Since(start)
			b.StartTimer()
		}
		b.ReportMetric(float64(detach.Microseconds())/float64(b.N), "us/detach")
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

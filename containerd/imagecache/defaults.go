//go:build linux

package imagecache

import (
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/containerd/document"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// minInterval is the shortest interval of an image's health checks, because each check costs the
// node and not the container.
const minInterval = time.Second

// defaultsOf returns the health check and the shell of an image. Their values come from the author
// of the image, who is not trusted. defaultsOf replaces numbers out of range by the nearest number
// in range, and package document has limited the lengths of the texts.
func defaultsOf(extra document.Extra) engine.ImageDefaults {
	d := engine.ImageDefaults{Shell: extra.Shell}
	h := extra.Healthcheck
	if h == nil || len(h.Test) == 0 {
		return d
	}
	d.Healthcheck = &swarmv1.HealthConfig{
		Test:          h.Test,
		Interval:      atLeast(h.Interval, minInterval),
		Timeout:       atLeast(h.Timeout, time.Millisecond),
		StartPeriod:   atLeast(h.StartPeriod, 0),
		StartInterval: atLeast(h.StartInterval, minInterval),
		Retries:       uint32(min(max(h.Retries, 0), math.MaxInt32)),
	}
	return d
}

// atLeast returns n nanoseconds, or least if n is shorter. It returns nil, which stands for the
// default, if n is not positive.
func atLeast(n int64, least time.Duration) *durationpb.Duration {
	if n <= 0 {
		return nil
	}
	return durationpb.New(max(time.Duration(n), least))
}

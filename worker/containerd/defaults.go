//go:build linux

package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/containerd/document"
	"swarm/worker/engine"
)

// annotationDefaults is where a container's record keeps its image's defaults, for the processes after this one. A label
// has no room for a command.
const annotationDefaults = "io.swarm.image-defaults"

// minInterval bounds how often an image has itself checked: each check costs the node, not the container.
const minInterval = time.Second

// defaultsOf reads what an image asks for beyond its container's process. Whoever made the image is not trusted: numbers
// that are out of bounds are brought within them, and package document has bounded the words.
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

// atLeast is nil, the default, for what is not positive.
func atLeast(n int64, least time.Duration) *durationpb.Duration {
	if n <= 0 {
		return nil
	}
	return durationpb.New(max(time.Duration(n), least))
}

func annotateDefaults(to map[string]string, d engine.ImageDefaults) error {
	if d.Healthcheck == nil && len(d.Shell) == 0 {
		return nil
	}
	text, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode its image's defaults: %w", err)
	}
	to[annotationDefaults] = string(text)
	return nil
}

// ImageDefaults are those that Prepare has found in the container's image.
func (r *Runtime) ImageDefaults(ctx context.Context, taskID string) (d engine.ImageDefaults, err error) {
	if err := validID(taskID); err != nil {
		return d, err
	}
	c, err := r.client.ContainerService().Get(namespaced(ctx), taskID)
	if err != nil {
		return d, fmt.Errorf("image defaults of container %s: %w", taskID, engine.Away(err))
	}
	spec, err := decodeSpec(c)
	if err != nil {
		return d, fmt.Errorf("image defaults of container %s: %w", taskID, err)
	}
	if text := spec.Annotations[annotationDefaults]; text != "" {
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			return d, fmt.Errorf("image defaults of container %s: %w", taskID, err)
		}
	}
	return d, nil
}

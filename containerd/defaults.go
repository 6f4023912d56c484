//go:build linux

package containerd

import (
	"context"
	"encoding/json"
	"fmt"

	"swarm/worker/engine"
)

// annotationDefaults is the annotation of a container's spec that holds its image's defaults, for
// later processes of the daemon. A label is too short for a command.
const annotationDefaults = "io.swarm.image-defaults"

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

// ImageDefaults returns the health check and shell that Prepare found in the container's image.
// ErrNotFound: there is no such container.
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

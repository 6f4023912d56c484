package engine

import (
	"context"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

// Storage measures what is on this node's disk. containerd implements it.
type Storage interface {
	// Holdings returns the images whose blobs are all on this node, and how many bytes they take
	// together. Blobs that images share count once.
	Holdings(ctx context.Context) (held []Holding, bytes int64, err error)
	// ContainerSizes returns how many bytes each container has written, by task id.
	ContainerSizes(ctx context.Context) (map[string]int64, error)
	// VolumeSizes returns the size of each named volume in bytes, by name.
	VolumeSizes(ctx context.Context) (map[string]int64, error)
}

// Holding describes an image that this node holds.
type Holding struct {
	Image *swarmv1.Image
	// Since is when the image was fetched or loaded.
	Since time.Time
	// Containers is how many containers were made from the image.
	Containers int
	Labels     map[string]string
	// Size is how many bytes the image takes on the disk. Unique is how many of them no other image
	// shares.
	Size, Unique int64
}

// LogSize is the log of one task.
type LogSize struct {
	TaskID string
	Bytes  int64
	// Retired is when the task was removed from the node. Zero: the node still has the task.
	Retired time.Time
}

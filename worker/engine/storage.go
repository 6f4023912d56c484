package engine

import (
	"context"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

// Storage tells what lies on this node's disk. worker/containerd implements it.
type Storage interface {
	// Holdings are the images that are wholly here, and the bytes of all, what they share counted once.
	Holdings(ctx context.Context) (held []Holding, bytes int64, err error)
	// ContainerSizes is how many bytes each container has written, by task id.
	ContainerSizes(ctx context.Context) (map[string]int64, error)
	// VolumeSizes is how large each named volume is.
	VolumeSizes(ctx context.Context) (map[string]int64, error)
}

// Holding is an image as it lies on this node.
type Holding struct {
	Image *swarmv1.Image
	// Since when it is here.
	Since time.Time
	// Containers that were made from it.
	Containers int
	Labels     map[string]string
	// Size is what it takes on the disk, Unique how much of that no other image has a part in.
	Size, Unique int64
}

// LogSize is the log of one task.
type LogSize struct {
	TaskID string
	Bytes  int64
	// Retired is when its task became history; zero: it is not.
	Retired time.Time
}

package engine

import (
	"context"
	"io"
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
	// Volumes returns the volumes with a name of this node.
	Volumes() Volumes
}

// Volumes are the volumes with a name of a node. containerd implements it.
type Volumes interface {
	VolumeArchive
	VolumeMover
	// List returns all of them, sorted by name, without passwords in their options, and with the
	// sizes that Storage.VolumeSizes has measured.
	List(ctx context.Context) ([]*swarmv1.Volume, error)
	// Changed returns a channel that is closed when List would return something else. Call it
	// before List.
	Changed() <-chan struct{}
	// Create makes a volume, or returns the one that exists with the same driver options.
	// ErrAlreadyExists: a volume with other options exists.
	Create(v *swarmv1.Volume) (*swarmv1.Volume, error)
	// Remove removes a volume with its data, and returns how many bytes that has freed.
	// ErrNotFound: there is no such volume. ErrFailedPrecondition: containers use it.
	Remove(ctx context.Context, name string) (reclaimed int64, err error)
}

// VolumeArchive packs volumes into archives: tar, compressed with zstd, with checksums.
type VolumeArchive interface {
	// Export writes the files of a volume to w. ErrNotFound: there is no such volume.
	// ErrFailedPrecondition: its files are not on this node.
	Export(ctx context.Context, name string, w io.Writer) error
	// Import makes a volume from an archive of Export, or, with replace, gives a volume that no
	// task uses the files of the archive. Without a complete archive it changes nothing.
	// ErrInvalidArgument: the archive is broken. ErrAlreadyExists: a volume has the name, and
	// replace is not set. ErrFailedPrecondition: tasks use it.
	Import(ctx context.Context, v *swarmv1.Volume, replace bool, r io.Reader) (*swarmv1.Volume, error)
}

// VolumeMover moves volumes between nodes. SendMoved runs on the node that has the volume, and the
// other methods on the node that gets it. What a node has received is no volume, and survives a
// restart, until PlaceMoved or DiscardMoved. move is the id of the move.
type VolumeMover interface {
	// SendMoved writes an archive of a volume to w. It names the files that the list of received
	// files has as they are now, and leaves out their content. ErrNotFound: there is no such
	// volume. ErrFailedPrecondition: its files are not on this node, or, with unused, containers
	// use it.
	SendMoved(ctx context.Context, name string, unused bool, received io.Reader, w io.Writer) error
	// ListReceived writes the list of the files that the node has received to w.
	ListReceived(ctx context.Context, name, move string, w io.Writer) error
	// ReceiveMoved makes what the node has received equal to an archive of SendMoved. placed:
	// PlaceMoved was called before, and nothing is done. ErrInvalidArgument: the archive is broken.
	// ErrAlreadyExists: another volume has the name.
	ReceiveMoved(ctx context.Context, name, move string, r io.Reader) (placed bool, err error)
	// PlaceMoved makes the volume of what the last complete archive had. It may be repeated.
	// ErrFailedPrecondition: no archive is complete. ErrAlreadyExists: another volume has the name.
	PlaceMoved(v *swarmv1.Volume, move string) error
	// DiscardMoved removes what the node has received, and the volume, if PlaceMoved has made it
	// for this move. It may be repeated. ErrFailedPrecondition: containers use the volume.
	DiscardMoved(ctx context.Context, name, move string) error
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

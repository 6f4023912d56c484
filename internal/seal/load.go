package seal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"

	"swarm/internal/durable"
)

// LoadRing reads the key file. If the file does not exist and create is true, LoadRing makes a ring
// with a new key and writes it to the file. The file is then safe against a power failure when
// LoadRing returns, because a log whose key is lost can never be read again. LoadRing returns
// ErrLocked if the file is encrypted, and errdefs.ErrDataLoss with the path if it is damaged, or
// missing and create is false.
func LoadRing(file string, create bool) (*Ring, error) {
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && create:
		ring := NewRing(NewKey())
		return ring, durable.WriteFile(file, ring.Encode(nil), 0o600)
	case errors.Is(err, fs.ErrNotExist):
		return nil, errdefs.ErrDataLoss.WithMessage("the key file " + file + " is missing")
	case err != nil:
		return nil, err
	}
	ring, err := ParseRing(data, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return ring, nil
}

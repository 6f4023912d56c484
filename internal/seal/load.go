package seal

import (
	"errors"
	"io/fs"
	"os"

	"swarm/internal/durable"
)

// LoadRing reads the keys in a file. If the file does not exist, LoadRing makes a ring with a new
// key and writes it. A new ring is durable when LoadRing returns it, because a log whose key is
// lost in a power failure can never be read again. LoadRing returns ErrLocked if the file is under
// autolock.
func LoadRing(file string) (*Ring, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		ring := NewRing(NewKey())
		return ring, durable.WriteFile(file, ring.Encode(nil), 0o600)
	} else if err != nil {
		return nil, err
	}
	return ParseRing(data, nil)
}

package seal

import (
	"errors"
	"io/fs"
	"os"

	"swarm/internal/durable"
)

// LoadRing reads the key file. If the file does not exist, LoadRing makes a ring with a new key and
// writes it to the file. The file is then safe against a power failure when LoadRing returns,
// because a log whose key is lost can never be read again. LoadRing returns ErrLocked if the file
// is encrypted.
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

package flag

import (
	"github.com/distribution/reference"

	"swarm/cli/usage"
)

// CheckImage refuses a value that is not a valid reference to an image.
func CheckImage(image string) error {
	if _, err := reference.ParseNormalizedNamed(image); err != nil {
		return usage.Invalidf("image %q is not a valid reference: %s; use NAME[:TAG|@DIGEST]", image, usage.Reason(err.Error()))
	}
	return nil
}

package spec

import (
	"strings"

	"github.com/distribution/reference"
)

// Image is a reference to an image, normalised as Docker does.
type Image struct {
	// Name is "docker.io/library/redis:7": without the digest, with the tag. The tag is missing when only a digest was given.
	Name string
	// Digest is "sha256:...", or empty when the reference is not pinned.
	Digest string
}

// Registry is the host that the name begins with.
func (i Image) Registry() string {
	host, _, _ := strings.Cut(i.Name, "/")
	return host
}

// String is the whole reference: name, tag and digest.
func (i Image) String() string {
	if i.Digest == "" {
		return i.Name
	}
	return i.Name + "@" + i.Digest
}

// Familiar is the reference as users write it: "redis:7".
func (i Image) Familiar() string {
	named, err := reference.ParseDockerRef(i.Name)
	if err != nil {
		return i.String()
	}
	return reference.FamiliarString(named)
}

// loadCommand is what every message about an image that cannot be had tells the user to run.
const loadCommand = "swarm image load"

// LoadHint tells the user how to bring an image into the cluster without a registry.
func LoadHint(image string) string {
	if img, err := ParseImage(image); err == nil {
		image, _, _ = strings.Cut(img.Familiar(), "@")
	}
	return "`docker save " + image + " | " + loadCommand + "`"
}

// LacksImage says whether a task was rejected because nobody could give its image: the worker's message says how to load
// it.
func LacksImage(err string) bool { return strings.Contains(err, loadCommand) }

// ParseImage normalises a reference: docker.io and library/ are added when no registry and no folder are named, :latest
// when there is neither tag nor digest. A tag beside a digest is kept: it says what was asked for.
func ParseImage(s string) (Image, error) {
	if s == "" {
		return Image{}, invalid("image is empty: name one, for example redis:7")
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Image{}, invalid("image %s is not a reference (%v): write [REGISTRY/]NAME[:TAG][@DIGEST]", quote(s), err)
	}
	img := Image{}
	if d, ok := named.(reference.Digested); ok {
		img.Digest = d.Digest().String()
	}
	if img.Digest == "" {
		named = reference.TagNameOnly(named)
	}
	img.Name = named.Name()
	if t, ok := named.(reference.Tagged); ok {
		img.Name += ":" + t.Tag()
	}
	return img, nil
}

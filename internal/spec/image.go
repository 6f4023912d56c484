package spec

import (
	"strings"

	"github.com/distribution/reference"
)

// Image is an image reference, normalised by the rules of Docker.
type Image struct {
	// Name is the reference without the digest: "docker.io/library/redis:7". It has no tag if the
	// reference had only a digest.
	Name string
	// Digest is "sha256:...", or empty if the reference has no digest.
	Digest string
}

// Registry returns the host at the beginning of the name.
func (i Image) Registry() string {
	host, _, _ := strings.Cut(i.Name, "/")
	return host
}

// String returns the whole reference: name, tag and digest.
func (i Image) String() string {
	if i.Digest == "" {
		return i.Name
	}
	return i.Name + "@" + i.Digest
}

// Familiar returns the reference without the digest, as users write it: "redis:7".
func (i Image) Familiar() string {
	named, err := reference.ParseDockerRef(i.Name)
	if err != nil {
		return i.String()
	}
	return reference.FamiliarString(named)
}

// loadCommand is in the error text of every image that no node and no registry can provide.
const loadCommand = "swarm image load"

// LoadHint returns the command that brings an image into the cluster without a registry.
func LoadHint(image string) string {
	if img, err := ParseImage(image); err == nil {
		image, _, _ = strings.Cut(img.Familiar(), "@")
	}
	return "`docker save " + image + " | " + loadCommand + "`"
}

// LacksImage reports whether a task was rejected because its image could not be found. err is the
// error text of the worker; the text names loadCommand in that case.
func LacksImage(err string) bool { return strings.Contains(err, loadCommand) }

// ParseImage parses and normalises a reference. It adds docker.io and library/ if the reference
// names neither a registry nor a folder, and :latest if it has neither tag nor digest. A tag beside
// a digest is kept, because it shows what the user asked for.
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

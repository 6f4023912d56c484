//go:build linux

package document

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxEntries is how many entries an archive may have. Readers keep the name of each in memory,
	// in some hundred bytes. An image has about four entries for each layer.
	maxEntries = 16 << 10
	// maxEntryName is the longest name in an archive in bytes, as in a tar header without
	// extensions.
	maxEntryName = 256
	// dockerList is the file of a Docker archive that lists its images.
	dockerList = "manifest.json"
)

// Archive returns a tar with the files and links of the archive from, which is a plain tar. It
// limits the number of entries, the length of names, and the size of documents and of their lists,
// because readers of image archives keep all names in memory and decode the documents, and a small
// compressed archive can have very many of both. If the archive exceeds a limit, a read of the
// returned tar fails before it returns that part of the archive. Reads return errors of from as
// they are.
func Archive(from io.Reader) io.Reader {
	a := &archive{from: tar.NewReader(from), body: bytes.NewReader(nil), piece: make([]byte, 32<<10)}
	a.to = tar.NewWriter(&a.out)
	return a
}

// archive writes a tar again, piece by piece, as it is read.
type archive struct {
	from    *tar.Reader
	to      *tar.Writer  // writes to out
	out     bytes.Buffer // what Read returns next
	body    io.Reader    // of the current entry
	piece   []byte
	entries int
	err     error // returned once out is empty
}

func (a *archive) Read(p []byte) (int, error) {
	for a.out.Len() == 0 {
		if a.err != nil {
			return 0, a.err
		}
		a.err = a.step()
	}
	return a.out.Read(p)
}

// step writes the next piece, and returns io.EOF after the last one.
func (a *archive) step() error {
	n, err := a.body.Read(a.piece)
	if n > 0 {
		if _, err := a.to.Write(a.piece[:n]); err != nil {
			return err
		}
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	h, err := a.from.Next()
	if errors.Is(err, io.EOF) {
		if err := a.to.Close(); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	a.body = bytes.NewReader(nil)
	a.entries++
	if a.entries > maxEntries {
		return beyond("it has more than %d entries", maxEntries)
	}
	return a.entry(h)
}

// entry begins an entry. It skips entries other than files and symbolic links, because no reader of
// images uses them.
func (a *archive) entry(h *tar.Header) error {
	if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeSymlink {
		return nil
	}
	if n := max(len(h.Name), len(h.Linkname)); n > maxEntryName {
		return beyond("it has a name of %d bytes, at most %d are allowed", n, maxEntryName)
	}
	clean := &tar.Header{Typeflag: h.Typeflag, Name: h.Name, Linkname: h.Linkname, Mode: 0o600}
	if h.Typeflag == tar.TypeReg {
		clean.Size = h.Size
		body, err := a.bounded(path.Clean(h.Name), h.Size)
		if err != nil {
			return err
		}
		a.body = body
	}
	return a.to.WriteHeader(clean)
}

// bounded returns the body of a file. It checks the archive's own documents first.
func (a *archive) bounded(name string, size int64) (io.Reader, error) {
	switch name {
	case dockerList, imagespec.ImageLayoutFile, imagespec.ImageIndexFile:
		if size > MaxSize {
			return nil, beyond("%s has %d bytes, at most %d are allowed", name, size, MaxSize)
		}
	}
	if name != dockerList {
		return a.from, nil // The index is a blob, and is bounded when it is read.
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(a.from, data); err != nil {
		return nil, err
	}
	return bytes.NewReader(data), checkList(data)
}

// checkList refuses the list of a Docker archive if it has more names than an index may list.
func checkList(data []byte) error {
	if err := checkElements(dockerList, data); err != nil {
		return err
	}
	var list []struct {
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("%s: %w", dockerList, err)
	}
	names := 0
	for _, image := range list {
		if n := len(image.Layers); n > maxLayers {
			return beyond("%s gives an image %d layers, at most %d are allowed", dockerList, n, maxLayers)
		}
		names += max(1, len(image.RepoTags))
	}
	if names > maxManifests {
		return beyond("%s has %d names of images, at most %d are allowed", dockerList, names, maxManifests)
	}
	return nil
}

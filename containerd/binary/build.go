//go:build linux

package binary

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
)

// BuildID returns the name of a program's build: its version, and a digest of the id that the Go
// linker gave it, which differs if the content does. Two builds of one uncommitted tree have the
// same version, and must not share a folder.
func BuildID(program, version string) (string, error) {
	id, err := goBuildID(program)
	if err != nil {
		return "", fmt.Errorf("build id of %s: %w", program, err)
	}
	sum := sha256.Sum256([]byte(id))
	return fileName(version) + "-" + hex.EncodeToString(sum[:6]), nil
}

// goBuildID reads the linker's note, which is one page and not the whole file.
func goBuildID(program string) (string, error) {
	f, err := os.Open(program)
	if err != nil {
		return "", err
	}
	defer f.Close()
	exe, err := elf.NewFile(f)
	if err != nil {
		return "", err
	}
	section := exe.Section(".note.go.buildid")
	if section == nil {
		return "", fmt.Errorf("no Go build id: %w", errdefs.ErrNotFound)
	}
	note, err := section.Data()
	if err != nil {
		return "", err
	}
	// An ELF note: three lengths and types of four bytes, the name "Go", the id.
	const header = 12
	if len(note) < header {
		return "", fmt.Errorf("build id note of %d bytes: %w", len(note), errdefs.ErrInvalidArgument)
	}
	name := (int(exe.ByteOrder.Uint32(note)) + 3) &^ 3 // padded
	size := int(exe.ByteOrder.Uint32(note[4:]))
	if name < 0 || size <= 0 || header+name+size > len(note) {
		return "", fmt.Errorf("malformed build id note: %w", errdefs.ErrInvalidArgument)
	}
	return string(bytes.TrimRight(note[header+name:header+name+size], "\x00")), nil
}

// fileName turns a version into a file name.
func fileName(version string) string {
	name := strings.Map(func(r rune) rune {
		if r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '.' || r == '-' || r == '_') {
			return r
		}
		return '_'
	}, version)
	name = strings.TrimLeft(name, ".")
	if name == "" {
		return "devel"
	}
	return name
}

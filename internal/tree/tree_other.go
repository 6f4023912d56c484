//go:build !linux

// Package tree removes file trees. Containers exist on Linux only, where the package uses few
// descriptors.
package tree

import (
	"context"
	"os"
)

// RemoveAll removes the file or tree at path. A missing path is not an error.
func RemoveAll(_ context.Context, path string) error { return os.RemoveAll(path) }

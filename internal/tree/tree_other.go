//go:build !linux

// Package tree removes whole file trees. Containers make trees on Linux alone, where it does so with few descriptors.
package tree

import (
	"context"
	"os"
)

// RemoveAll removes the file or the tree at path, and is done when nothing is there.
func RemoveAll(_ context.Context, path string) error { return os.RemoveAll(path) }

//go:build linux

package binary

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Prune removes the builds below dir that are not in use, and returns their names. A build is in
// use if keep names it, if a process runs from it, or if a container's bundle below bundles
// (layout.Bundles) names its shim: containerd needs that shim to clean up if the container's shim
// is dead.
func Prune(dir, bundles string, keep ...string) (removed []string, err error) {
	unlock, err := lockDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("prune builds: %w", err)
	}
	defer unlock()
	used, err := buildsInUse(dir, bundles)
	if err != nil {
		return nil, fmt.Errorf("prune builds: %w", err)
	}
	for _, build := range keep {
		used[build] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("prune builds: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || used[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return removed, fmt.Errorf("prune build %s: %w", e.Name(), err)
		}
		removed = append(removed, e.Name())
	}
	return removed, nil
}

func buildsInUse(dir, bundles string) (map[string]bool, error) {
	used := make(map[string]bool)
	if err := eachProcess(dir, func(build, _ string) { used[build] = true }); err != nil {
		return nil, err
	}
	shims, err := filepath.Glob(filepath.Join(bundles, "*", "*", "shim-binary-path"))
	if err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	for _, file := range shims {
		path, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // The container was deleted.
		}
		if err != nil {
			return nil, err
		}
		for _, parent := range []string{real, dir} {
			if rest, ok := strings.CutPrefix(string(path), parent+"/"); ok {
				build, _, _ := strings.Cut(rest, "/")
				used[build] = true
			}
		}
	}
	return used, nil
}

//go:build linux

package binary

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"swarm/containerd/shim"
)

// Running is a process of a node, and the build that it runs from.
type Running struct{ Part, Build string }

// Parts that run from the copies.
const (
	PartRuntime = "runtime"
	PartShim    = "shim"
)

// Census returns which parts run from which builds below dir, sorted and each once.
func Census(dir string) ([]Running, error) {
	var found []Running
	err := eachProcess(dir, func(build, program string) {
		switch program {
		case programName:
			found = append(found, Running{PartRuntime, build})
		case shim.Name:
			found = append(found, Running{PartShim, build})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("builds that run: %w", err)
	}
	slices.SortFunc(found, func(a, b Running) int {
		return cmp.Or(strings.Compare(a.Part, b.Part), strings.Compare(a.Build, b.Build))
	})
	return slices.Compact(found), nil
}

// eachProcess calls a function with the build and the program of each process that runs from a
// folder below dir.
func eachProcess(dir string, do func(build, program string)) error {
	// The kernel resolves symbolic links in the paths of programs.
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, p := range procs {
		path, err := os.Readlink("/proc/" + p.Name() + "/exe")
		if err != nil {
			continue // not a process, a kernel thread, or a process that has ended
		}
		for _, parent := range []string{real, dir} {
			if rest, ok := strings.CutPrefix(path, parent+"/"); ok {
				build, program, _ := strings.Cut(rest, "/")
				do(build, strings.TrimSuffix(program, " (deleted)"))
				break
			}
		}
	}
	return nil
}

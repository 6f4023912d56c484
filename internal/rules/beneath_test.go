package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pathCalls are the functions of package os, and of others, that look a path up by its name.
var pathCalls = map[string][]string{
	"os": {
		"Chmod", "Chown", "Chtimes", "Create", "DirFS", "Lchown", "Link", "Lstat", "Mkdir", "MkdirAll", "MkdirTemp", "Open", "OpenFile",
		"ReadDir", "ReadFile", "Readlink", "Remove", "RemoveAll", "Rename", "Stat", "Symlink", "Truncate", "WriteFile",
	},
	"unix":     {"Chmod", "Chown", "Lchown", "Link", "Mkdir", "Mkfifo", "Mknod", "Mount", "Open", "Rename", "Rmdir", "Symlink", "Unmount"},
	"filepath": {"EvalSymlinks", "Glob", "Walk", "WalkDir"},
}

// adapter are the packages that handle the file trees of containers.
var adapter = []string{"containerd", "containerd/exec", "containerd/imagecache", "containerd/volume"}

// beneath are the files of these packages that look paths up by name, and why they may: none of the
// paths leads below a folder that a container writes to.
var beneath = map[string]string{
	"containerd/endshims.go":      "sockets of shims, and containerd's bundles, whose root file systems are unmounted",
	"containerd/etc.go":           "folders with the files of tasks' /etc: a container is given the single files",
	"containerd/exec/exec.go":     "the folder of execs' pipes",
	"containerd/data.go":          "files of secrets and configs, where root alone writes",
	"containerd/folder.go":        "folders and files of tasks, where root alone writes",
	"containerd/host.go":          "files of the kernel",
	"containerd/reap.go":          "cgroups",
	"containerd/start.go":         "a task's folder",
	"containerd/stop.go":          "containerd's bundles",
	"containerd/exec/dial.go":     "the kernel's handle of a network namespace",
	"containerd/exec/tree.go":     "the kernel's account of a process",
	"containerd/volume/export.go": "a volume's data folder itself; what is below is looked up in open folders",
	"containerd/volume/import.go": "a new volume, which no container sees yet",
	"containerd/volume/fill.go":   "copies beside a volume's data",
	"containerd/volume/list.go":   "the list of volumes, and their own folders",
	"containerd/volume/local.go":  "a volume's data folder itself, to mount there",
	"containerd/volume/move.go":   "what this node receives of a volume, which no container sees yet",
	"containerd/volume/named.go":  "files beside a volume's data, and in the folders of tasks",
	"containerd/volume/place.go":  "a volume's own folder",
	"containerd/volume/plan.go":   "bind sources up to a volume",
	"containerd/volume/stage.go":  "staging folders",
	"containerd/volume/volume.go": "the list of volumes, and folders above their data",
}

// resolves are the files that resolve a path in a tree, and what for: none of them opens the
// result.
var resolves = map[string]string{
	"containerd/inroot/inroot.go":         "gives it to others",
	"containerd/imagecache/imagecache.go": "where runc will mount the volumes that an image declares",
}

// What containers write is looked up by package inroot, which cannot be led astray. In the runtime
// adapter a path is looked up by name only in files that say what they look at. Nobody resolves a
// path in a tree to open the result by name.
func TestContainersTreesAreOpenedBeneath(t *testing.T) {
	used := map[string]bool{}
	for _, f := range tracked(t, "*.go") {
		if strings.HasSuffix(f, "_test.go") || generated(f) {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, f), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			name := sel.Sel.Name
			if (name == "RootPath" || name == "SecureJoin" || pkg.Name == "inroot" && name == "Resolve") && resolves[f] == "" {
				t.Errorf("%s: %s.%s: what it finds may be something else when it is opened: use another function of package containerd/inroot", f, pkg.Name, name)
			}
			if !slices.Contains(adapter, filepath.Dir(f)) || !slices.Contains(pathCalls[pkg.Name], name) {
				return true
			}
			if beneath[f] == "" {
				t.Errorf("%s: %s.%s looks a path up by name: use package inroot, or say in this test why no container writes there", f, pkg.Name, name)
			}
			used[f] = true
			return true
		})
	}
	for f := range beneath {
		if !used[f] {
			t.Errorf("%s looks no path up by name any more: take it from the list", f)
		}
	}
}

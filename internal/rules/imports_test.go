package rules

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pkg is what `go list -json` says of one package of this module.
type pkg struct {
	ImportPath, Dir, Doc               string
	Imports, TestImports, XTestImports []string
	GoFiles                            []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Doc,Imports,TestImports,XTestImports,GoFiles", "swarm/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("decode go list: %v", err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, "swarm/")
		all = append(all, p)
	}
}

// under tells whether path is folder or lies below it.
func under(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

// belowNouns is what a package with the verbs of one noun may import.
var belowNouns = []string{"cli/command", "cli/complete", "cli/flag", "cli/term", "cli/usage", "internal", "proto"}

// directions: a package below folder imports, of this module, only what lies below one of the others.
// Imports point down only, so that every part can be read, tested and replaced without the parts above it.
var directions = []struct {
	folder string
	may    []string
}{
	{"proto", []string{"proto"}},
	{"internal/rules", nil},
	{"internal", []string{"internal", "proto"}},
	{"raftstore", []string{"raftstore", "internal", "proto"}},
	{"manager", []string{"manager", "raftstore", "internal", "proto"}},
	// A worker must run where no manager code does; it never sees the store.
	{"worker", []string{"worker", "internal", "proto"}},
	{"overlay", []string{"overlay", "internal", "proto"}},
	// A node's parts are given to it as functions: it knows none of them.
	{"node", []string{"internal", "proto"}},
	// It writes files and runs systemctl: what it installs is no concern of its.
	{"install", []string{"internal", "proto"}},
	// What the network's libraries see is handed to the doctor: it judges, whoever looked.
	{"doctor", []string{"doctor", "internal", "proto"}},
	// The playground lays cables with the overlay's primitives.
	{"dev", []string{"dev", "overlay", "internal", "proto"}},
	// What verbs share knows no noun, and no noun knows another: what two nouns need moves down.
	{"cli/usage", []string{"cli/usage"}},
	{"cli/term", []string{"cli/usage", "internal", "proto"}},
	{"cli/flag", []string{"cli/term", "cli/usage", "internal", "proto"}},
	{"cli/command", []string{"cli/flag", "cli/term", "cli/usage", "internal", "proto"}},
	{"cli/complete", []string{"cli/command", "cli/term", "internal", "proto"}},
	{"cli/tasktable", belowNouns},
	{"cli/logs", belowNouns},
	{"cli/prune", belowNouns},
	{"cli/cluster", belowNouns},
	{"cli/credential", belowNouns},
	{"cli/daemon", belowNouns},
	{"cli/dev", belowNouns},
	{"cli/image", append([]string{"cli/prune"}, belowNouns...)},
	{"cli/network", belowNouns},
	{"cli/node", append([]string{"cli/tasktable"}, belowNouns...)},
	{"cli/registry", belowNouns},
	{"cli/service", append([]string{"cli/logs", "cli/tasktable"}, belowNouns...)},
	{"cli/system", append([]string{"cli/prune"}, belowNouns...)},
	{"cli/task", append([]string{"cli/logs", "cli/tasktable"}, belowNouns...)},
	// A front end is thin: flags, one call, print.
	{"cli", []string{"cli", "internal", "proto"}},
	// Scenarios drive the binary as a user does, and the playground.
	{"scenarios", []string{"scenarios", "dev", "overlay", "internal", "proto"}},
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		if under(p.ImportPath, "cmd") || under(p.ImportPath, "bench") {
			continue // Assembly: the places that know everything.
		}
		rule := -1
		for i, d := range directions {
			if under(p.ImportPath, d.folder) {
				rule = i
				break
			}
		}
		if rule < 0 {
			t.Errorf("%s: no rule says what it may import: put it where the layout has a place, or add one with its reason", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			name, ours := strings.CutPrefix(imported, "swarm/")
			if ours && !underAny(name, directions[rule].may) {
				t.Errorf("%s imports %s: packages below %s import only %v", p.ImportPath, name, directions[rule].folder, directions[rule].may)
			}
		}
	}
}

func underAny(path string, folders []string) bool {
	for _, f := range folders {
		if under(path, f) {
			return true
		}
	}
	return false
}

// doors: a library is used behind one door, so that its quirks are learned, and it can be replaced, in one place.
var doors = []struct {
	library string
	doors   []string
}{
	{"github.com/hashicorp/raft", []string{"raftstore"}},
	{"github.com/hashicorp/raft-boltdb", []string{"raftstore"}},
	{"github.com/hashicorp/memberlist", []string{"overlay"}},
	{"github.com/vishvananda", []string{"overlay"}},
	{"github.com/google/nftables", []string{"overlay"}},
	{"github.com/mdlayher", []string{"overlay"}},
	{"github.com/tidwall/btree", []string{"raftstore"}},
	{"go.etcd.io/bbolt", []string{"raftstore", "worker"}},
	{"github.com/containerd/containerd", []string{"worker/containerd", "cmd", "bench"}},
	{"github.com/cyphar/filepath-securejoin", []string{"worker/containerd/inroot"}},
	{"github.com/spf13/cobra", []string{"cli"}},
	{"github.com/rogpeppe/go-internal", []string{"scenarios"}},
	{"github.com/bufbuild", []string{"proto/gen"}},
	{"github.com/prometheus", []string{"internal/metrics"}},
}

func TestOneDoorPerLibrary(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range append(append(p.Imports, p.TestImports...), p.XTestImports...) {
			for _, d := range doors {
				if strings.HasPrefix(imported, d.library) && !underAny(p.ImportPath, d.doors) {
					t.Errorf("%s imports %s: its door is %v", p.ImportPath, imported, d.doors)
				}
			}
		}
	}
}

// A planner that cannot ask for the time, roll dice, or start a goroutine is one that can be tested, replayed and trusted.
func TestPureCoreImportsNothingImpure(t *testing.T) {
	pure := []string{"manager/planner", "internal/task", "internal/spec", "internal/ipam"}
	impure := []string{"os", "net", "math/rand", "math/rand/v2", "crypto/rand", "sync", "sync/atomic", "log/slog", "context", "google.golang.org/grpc"}
	for _, p := range packages(t) {
		if !underAny(p.ImportPath, pure) {
			continue
		}
		for _, imported := range p.Imports {
			for _, bad := range impure {
				if imported == bad {
					t.Errorf("%s imports %s: it is pure", p.ImportPath, imported)
				}
			}
		}
	}
}

// A label that fits any box says nothing about what is in it.
var banned = []string{"util", "utils", "helper", "helpers", "common", "misc", "base", "types", "structs", "shared"}

func TestPackageNamesAndComments(t *testing.T) {
	for _, p := range packages(t) {
		for _, name := range banned {
			if filepath.Base(p.ImportPath) == name {
				t.Errorf("%s: a package named %s owns nothing in particular", p.ImportPath, name)
			}
		}
		if p.Doc == "" && len(p.GoFiles) > 0 && !under(p.ImportPath, "proto/swarm") {
			t.Errorf("%s: no package comment: say what it owns, what it refuses, who calls it, which goroutines it runs", p.ImportPath)
		}
	}
}

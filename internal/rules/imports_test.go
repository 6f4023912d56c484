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

// belowManager and belowNouns are what the packages of a manager, and the nouns of the users' API,
// may import.
var (
	belowManager = []string{"raftstore", "internal", "proto"}
	belowNouns   = append([]string{
		"manager/control/crud", "manager/control/object", "manager/control/address", "manager/control/digest", "manager/control/nodecall",
	}, belowManager...)
)

// belowVerbs is what a package with the verbs of one noun may import.
var belowVerbs = []string{"cli/command", "cli/complete", "cli/flag", "cli/term", "cli/usage", "internal", "proto"}

// directions: a package below folder imports, of this module, only what lies below one of the
// others. Imports point down only, so that every part can be read, tested and replaced without the
// parts above it.
var directions = []struct {
	folder string
	may    []string
}{
	{"proto", []string{"proto"}},
	{"internal/rules", nil},
	{"internal", []string{"internal", "proto"}},
	{"raftstore", []string{"raftstore", "internal", "proto"}},
	// The nouns of the users' API do not import each other. What several of them need lies below
	// them.
	{"manager/control/crud", belowManager},
	{"manager/control/object", append([]string{"manager/control/crud"}, belowManager...)},
	{"manager/control/address", belowManager},
	{"manager/control/digest", belowManager},
	{"manager/control/nodecall", append([]string{"manager/control/object"}, belowManager...)},
	{"manager/control/cluster", append([]string{"manager/ca"}, belowNouns...)},
	{"manager/control/disk", belowNouns},
	{"manager/control/image", belowNouns},
	{"manager/control/network", belowNouns},
	{"manager/control/node", belowNouns},
	// It streams the judgement.
	{"manager/control/service", append([]string{"manager/converge"}, belowNouns...)},
	{"manager/control/task", belowNouns},
	// The judge reads messages of the API, whoever stores what they are made of.
	{"manager/converge", []string{"internal", "proto"}},
	{"manager", append([]string{"manager"}, belowManager...)},
	// A worker must run where no manager code does; it never sees the store.
	{"worker", []string{"worker", "internal", "proto"}},
	{"overlay", []string{"overlay", "internal", "proto"}},
	// The runtime adapter implements the interfaces that the worker declares, and knows no other
	// part.
	{"containerd", []string{"containerd", "worker", "internal", "proto"}},
	// A node's parts are given to it as functions: it knows none of them.
	{"node", []string{"internal", "proto"}},
	// It writes files and runs systemctl: what it installs is no concern of its.
	{"install", []string{"install", "internal", "proto"}},
	// Looking at a host needs the network's libraries. What they see is handed to package doctor,
	// whose judgement stays pure.
	{"doctor/observe", []string{"doctor", "overlay", "internal", "proto"}},
	{"doctor", []string{"doctor", "internal", "proto"}},
	// Adapters connect parts that do not know each other. Only cmd imports them.
	{"adapter", []string{"adapter", "doctor", "node", "manager", "worker", "overlay", "raftstore", "internal", "proto"}},
	// The playground lays cables with the overlay's primitives.
	{"dev", []string{"dev", "overlay", "internal", "proto"}},
	// What verbs share knows no noun, and no noun knows another: what two nouns need moves down.
	{"cli/usage", []string{"cli/usage"}},
	{"cli/term", []string{"cli/usage", "internal", "proto"}},
	{"cli/flag", []string{"cli/term", "cli/usage", "internal", "proto"}},
	{"cli/command", []string{"cli/flag", "cli/term", "cli/usage", "internal", "proto"}},
	{"cli/complete", []string{"cli/command", "cli/term", "internal", "proto"}},
	{"cli/tasktable", belowVerbs},
	{"cli/logs", belowVerbs},
	{"cli/converge", append([]string{"cli/logs"}, belowVerbs...)},
	{"cli/prune", belowVerbs},
	{"cli/cluster", belowVerbs},
	{"cli/credential", belowVerbs},
	{"cli/daemon", belowVerbs},
	{"cli/dev", belowVerbs},
	{"cli/image", append([]string{"cli/prune"}, belowVerbs...)},
	{"cli/network", belowVerbs},
	{"cli/node", append([]string{"cli/converge", "cli/tasktable"}, belowVerbs...)},
	{"cli/registry", belowVerbs},
	{"cli/service", append([]string{"cli/converge", "cli/logs", "cli/tasktable"}, belowVerbs...)},
	{"cli/system", append([]string{"cli/prune"}, belowVerbs...)},
	{"cli/task", append([]string{"cli/logs", "cli/tasktable"}, belowVerbs...)},
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

// doors: a library is used behind one door, so that its quirks are learned, and it can be replaced,
// in one place.
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
	{"github.com/tidwall/btree", []string{"raftstore/table"}},
	{"go.etcd.io/bbolt", []string{"raftstore", "worker/state"}},
	{"github.com/containerd/containerd", []string{"containerd", "cmd", "bench"}},
	{"github.com/cyphar/filepath-securejoin", []string{"containerd/inroot"}},
	{"github.com/spf13/cobra", []string{"cli"}},
	{"github.com/rogpeppe/go-internal", []string{"scenarios"}},
	{"github.com/bufbuild", []string{"proto/gen"}},
	{"github.com/prometheus/client_golang", []string{"internal/metrics"}},
	{"github.com/prometheus/procfs", []string{"worker/usage"}},
	{"charm.land", []string{"cli/top"}},
	{"github.com/charmbracelet", []string{"cli/top"}},
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

// A planner that cannot ask for the time, roll dice, or start a goroutine is one that can be
// tested, replayed and trusted.
func TestPureCoreImportsNothingImpure(t *testing.T) {
	pure := []string{
		"manager/planner", "manager/converge", "raftstore/table", "internal/explain", "internal/ipam", "internal/publish", "internal/rollout", "internal/spec",
		"internal/task",
	}
	impure := []string{"os", "net", "math/rand", "math/rand/v2", "crypto/rand", "sync", "sync/atomic", "log/slog", "context", "google.golang.org/grpc", "github.com/hashicorp/raft"}
	for _, p := range packages(t) {
		if !underAny(p.ImportPath, pure) || p.ImportPath == "raftstore/table/gen" { // a command, which writes files
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

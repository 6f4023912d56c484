package rules

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the top of the repository, seen from this package.
const root = "../.."

// tracked lists the files that git knows, matching the pathspecs.
func tracked(t *testing.T, specs ...string) []string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"ls-files", "-z", "--"}, specs...)...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	var files []string
	for f := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		if _, err := os.Stat(filepath.Join(root, f)); err == nil {
			files = append(files, f)
		}
	}
	return files
}

func generated(file string) bool { return strings.HasSuffix(file, ".pb.go") }

// A file that cannot be taken in at one sitting hides what is wrong with it.
func TestFilesAreShort(t *testing.T) {
	const limit = 500
	for _, f := range tracked(t, "*.go") {
		if generated(f) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(text, []byte("\n")); n > limit {
			t.Errorf("%s: %d lines, more than %d: which noun in it should move to a file of its own?", f, n, limit)
		}
	}
}

// One comment cannot explain a larger package, and no rule of imports separates its parts. Tests
// and generated code do not count.
func TestPackagesAreShort(t *testing.T) {
	const (
		limit         = 2500
		maxExceptions = 2
	)
	exceptions := map[string]string{} // package: why it cannot be split
	if len(exceptions) > maxExceptions {
		t.Errorf("%d exceptions, more than %d", len(exceptions), maxExceptions)
	}
	lines := map[string]int{}
	for _, f := range tracked(t, "*.go") {
		if generated(f) || strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			t.Fatal(err)
		}
		lines[filepath.Dir(f)] += bytes.Count(text, []byte("\n"))
	}
	for dir, n := range lines {
		if n > limit && exceptions[dir] == "" {
			t.Errorf("%s: %d lines without tests, more than %d: which noun in it wants a package of its own?", dir, n, limit)
		}
		if n <= limit && exceptions[dir] != "" {
			t.Errorf("%s: %d lines, and needs no exception any more", dir, n)
		}
	}
}

// Package main can be tested only as a whole program. It parses flags, builds configurations and
// wires concrete types together; a decision belongs to the package that owns its noun, with a test.
func TestCommandOnlyWires(t *testing.T) {
	const limit = 1000
	total := 0
	for _, f := range tracked(t, "cmd/swarm/*.go") {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			t.Fatal(err)
		}
		total += bytes.Count(text, []byte("\n"))
	}
	if total > limit {
		t.Errorf("cmd/swarm has %d lines without tests, more than %d: move what decides to the package that owns the noun", total, limit)
	}
}

// init functions and package-level state run before anybody can decide whether they should.
func TestNoInitFunctions(t *testing.T) {
	for _, f := range tracked(t, "*.go") {
		if generated(f) {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, f), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: has an init function: build things in New, wire them in cmd", f)
			}
		}
	}
}

// A test that sleeps is slow when it passes and wrong when the machine is slow. In a synctest
// bubble time is free.
func TestTestsDoNotSleep(t *testing.T) {
	for _, f := range tracked(t, "*_test.go") {
		text, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("time.Sleep(")) && !bytes.Contains(text, []byte(`"testing/synctest"`)) && f != "internal/rules/files_test.go" {
			t.Errorf("%s: time.Sleep outside a synctest bubble: wait for what you need with package internal/eventually", f)
		}
	}
}

// Promises in code are forgotten; an issue is not.
func TestNoPromises(t *testing.T) {
	promise := regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)
	for _, f := range tracked(t, "*.go", "Makefile", "*.sh") {
		text, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			t.Fatal(err)
		}
		if f != "internal/rules/files_test.go" && promise.Match(text) {
			t.Errorf("%s: %q: do it, or open an issue", f, promise.Find(text))
		}
	}
}

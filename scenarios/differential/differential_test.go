package differential

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"swarm/dev"
)

var update = flag.Bool("update", false, "write the differences into the scripts")

// TestSameAsDocker plays every script on one cluster of swarm and compares each result with what
// dockerd gave, and with what the script says of intended differences.
func TestSameAsDocker(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces and runs containers")
	}
	binary := os.Getenv("SWARM_BINARY")
	if binary == "" {
		binary = "../../bin/swarm"
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := Load("testdata")
	if err != nil {
		t.Fatal(err)
	}
	archives, err := Images(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("diff%d", os.Getpid()%100000)
	p, err := dev.Up(t.Context(), dev.Options{Name: name, Nodes: 3, Managers: 3, Binary: binary, Root: filepath.Join(t.TempDir(), "h")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := dev.Down(ctx, name); err != nil {
			t.Error(err)
		}
	})
	sys := &ours{playground: p, binary: binary, killed: map[string]bool{}}
	for _, a := range archives {
		if _, err := sys.Run(t.Context(), "", "image", "load", "-q", "-i", a); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("together", func(t *testing.T) {
		for _, s := range scripts {
			if !s.Alone {
				t.Run(s.Name, func(t *testing.T) {
					t.Parallel()
					compare(t, sys, s)
				})
			}
		}
	})
	for _, s := range scripts {
		if s.Alone {
			t.Run(s.Name, func(t *testing.T) { compare(t, sys, s) })
		}
	}
}

func compare(t *testing.T, sys System, s *Script) {
	t.Helper()
	golden, err := os.ReadFile(filepath.Join("testdata", s.Name+".docker.golden"))
	if err != nil {
		t.Fatalf("%v: record it with `make bench-peer ONLY=differential`", err)
	}
	results, err := Play(t.Context(), sys, s)
	if err != nil {
		t.Error(err)
	}
	docker := sections(string(golden))
	for i, r := range results {
		if i >= len(docker) || docker[i].heading != r.Step.Text {
			t.Fatalf("%s: step %d is not the one that was recorded: record it with `make bench-peer ONLY=differential`", r.Step.Text, i+1)
		}
		want := docker[i].lines
		if *update {
			r.Step.Ours = nil
			if !slices.Equal(r.Lines, want) {
				r.Step.Ours, r.Step.Differs = r.Lines, cmp.Or(r.Step.Differs, "?")
			} else {
				r.Step.Differs = ""
			}
			s.Steps[i] = r.Step
			continue
		}
		if r.Step.Differs != "" {
			if slices.Equal(r.Lines, want) {
				t.Errorf("step %d, %s: swarm does the same as Docker: remove `differs %s`", i+1, r.Step.Text, r.Step.Differs)
			}
			want = r.Step.Ours
		}
		if diff := gocmp.Diff(strings.Join(want, "\n"), strings.Join(r.Lines, "\n")); diff != "" {
			t.Errorf("step %d, %s (differs: %q) (-want +got):\n%s\n%s", i+1, r.Step.Text, r.Step.Differs, diff, r.Message)
		}
	}
	if *update {
		rewrite(t, s)
	}
}

// rewrite writes the differences of a script into its file. A new one has the name "?".
func rewrite(t *testing.T, s *Script) {
	t.Helper()
	file := filepath.Join("testdata", s.Name+".txt")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	next := 0
	for line := range strings.Lines(string(text)) {
		if line[0] == ' ' || strings.HasPrefix(line, "differs ") {
			continue
		}
		out.WriteString(line)
		if next == len(s.Steps) || strings.TrimSpace(line) != s.Steps[next].Text {
			continue
		}
		step := s.Steps[next]
		next++
		if step.Differs == "" {
			continue
		}
		fmt.Fprintf(&out, "differs %s\n", step.Differs)
		for _, line := range step.Ours {
			fmt.Fprintf(&out, "    %s\n", line)
		}
	}
	if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestDifferencesHaveReasons checks that each difference in a script has an entry in
// differences.txt, and each entry a script.
func TestDifferencesHaveReasons(t *testing.T) {
	reasons, err := Differences("testdata")
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := Load("testdata")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, s := range scripts {
		for _, step := range s.Steps {
			for _, name := range strings.Split(step.Differs, ", ") {
				if used[name] = true; name != "" && reasons[name] == "" {
					t.Errorf("%s.txt: %s: no reason for the difference %q in %s", s.Name, step.Text, name, differencesFile)
				}
			}
		}
	}
	for name := range reasons {
		if !used[name] {
			t.Errorf("%s: no script refers to %q: remove the entry", differencesFile, name)
		}
	}
}

// TestScripts_ShareACluster checks that the names of a script's objects begin with its name,
// because scripts play on one cluster at the same time.
func TestScripts_ShareACluster(t *testing.T) {
	scripts, err := Load("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scripts {
		for _, step := range s.Steps {
			if name := step.created(); name != "" && !strings.HasPrefix(name, s.Name) {
				t.Errorf("%s.txt: %s: the name of the service does not begin with the name of the script", s.Name, step.Text)
			}
		}
	}
}

func TestWords(t *testing.T) {
	for line, want := range map[string][]string{
		"a  b":          {"a", "b"},
		"a 'b c' d":     {"a", "b c", "d"},
		"--env 'A=1 2'": {"--env", "A=1 2"},
		"a ''":          {"a", ""},
	} {
		got, err := words(line)
		if diff := gocmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got):\n%s", line, err, diff)
		}
	}
	if _, err := words("a 'b"); err == nil {
		t.Error("a quote without an end: want an error")
	}
}

type section struct {
	heading string
	lines   []string
}

// sections splits a golden file into its steps.
func sections(text string) (out []section) {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if heading, ok := strings.CutPrefix(line, "$ "); ok {
			out = append(out, section{heading: heading})
			continue
		}
		last := &out[len(out)-1]
		last.lines = append(last.lines, line)
	}
	return out
}

package differential

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Script is a sequence of steps. Its file has one step on each line; empty lines and lines that
// begin with # do not count. The steps are
//
//	alone                     first line: nothing else may use the cluster meanwhile
//	COMMAND...                a command of `docker` and `swarm`, which succeeds
//	! COMMAND...              a command that Docker refuses
//	echo TEXT | COMMAND...    a command with TEXT on its standard input
//	rest                      wait until the cluster is at rest and record its services
//	rest moves                also record whether a task is on the node of its predecessor
//	logs SERVICE PREFIX       record the lines of the service's logs that begin with PREFIX
//	kill NODE                 end all processes of a node at once
//	start NODE                start a killed node
//	differs NAME              ours gives another result for the step above; see below
//
// Words are separated by blanks. Single quotes keep blanks in a word. The names of all objects that
// a script makes begin with the name of the script, so that several scripts can use one cluster.
//
// NAME in `differs NAME` is an entry of testdata/differences.txt, which has the reason. The
// indented lines below are what swarm gives instead of Docker's lines.
type Script struct {
	Name  string
	Alone bool
	Steps []Step
}

// Step is one step of a script.
type Step struct {
	// Text is the line as it is in the file. Golden files have it as a heading.
	Text string
	// Words are the step's words, without ! and without what fills the standard input.
	Words []string
	// Stdin is the standard input of a command.
	Stdin string
	// Refused says that Docker refuses the command.
	Refused bool
	// Differs is the name of the intended difference, or empty.
	Differs string
	// Ours are the lines that swarm gives if Differs is set.
	Ours []string
}

// Load reads the scripts of a folder, sorted by name.
func Load(dir string) ([]*Script, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return nil, err
	}
	var out []*Script
	for _, file := range files {
		if filepath.Base(file) == differencesFile {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		s, err := parse(strings.TrimSuffix(filepath.Base(file), ".txt"), string(text))
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func parse(name, text string) (*Script, error) {
	s := &Script{Name: name}
	number := 0
	for line := range strings.Lines(text) {
		number++
		if err := s.add(strings.TrimRight(line, " \n")); err != nil {
			return nil, fmt.Errorf("%s.txt:%d: %w", name, number, err)
		}
	}
	if len(s.Steps) == 0 {
		return nil, fmt.Errorf("%s.txt: no steps", name)
	}
	return s, nil
}

func (s *Script) add(line string) error {
	var last *Step
	if len(s.Steps) > 0 {
		last = &s.Steps[len(s.Steps)-1]
	}
	difference, differs := strings.CutPrefix(line, "differs ")
	switch {
	case line == "" || line[0] == '#':
		return nil
	case line == "alone":
		if last != nil {
			return errors.New("alone: want it before the first step")
		}
		s.Alone = true
		return nil
	case line[0] == ' ':
		if last == nil || last.Differs == "" {
			return errors.New("an indented line: want it below `differs NAME`")
		}
		last.Ours = append(last.Ours, strings.TrimPrefix(line, "    "))
		return nil
	case differs:
		if last == nil || last.Differs != "" {
			return errors.New("differs: want it below one step")
		}
		last.Differs = difference
		return nil
	}
	step, err := parseStep(line)
	s.Steps = append(s.Steps, step)
	return err
}

func parseStep(line string) (Step, error) {
	step := Step{Text: line}
	rest, refused := strings.CutPrefix(line, "! ")
	step.Refused = refused
	if text, ok := strings.CutPrefix(rest, "echo "); ok {
		if step.Stdin, rest, ok = strings.Cut(text, " | "); !ok {
			return step, errors.New("echo: want `echo TEXT | COMMAND`")
		}
		step.Stdin += "\n"
	}
	var err error
	if step.Words, err = words(rest); err != nil {
		return step, err
	}
	want := map[string]int{"logs": 3, "kill": 2, "start": 2}[step.Words[0]]
	if want != 0 && len(step.Words) != want {
		return step, fmt.Errorf("%s: got %d words, want %d", step.Words[0], len(step.Words), want)
	}
	return step, nil
}

// words splits a line at blanks outside of single quotes.
func words(line string) ([]string, error) {
	parts := strings.Split(line, "'")
	if len(parts)%2 == 0 {
		return nil, errors.New("a quote without an end")
	}
	var out []string
	var word strings.Builder
	open := false // Also an empty word in quotes is a word.
	flush := func() {
		if open {
			out = append(out, word.String())
		}
		word.Reset()
		open = false
	}
	for i, part := range parts {
		if i%2 == 1 {
			word.WriteString(part)
			open = true
			continue
		}
		for j, field := range strings.Split(part, " ") {
			if j > 0 {
				flush()
			}
			word.WriteString(field)
			open = open || field != ""
		}
	}
	flush()
	if len(out) == 0 {
		return nil, errors.New("no words")
	}
	return out, nil
}

// created returns the name of the service that the step creates, or an empty string.
func (s Step) created() string {
	if len(s.Words) < 2 || s.Words[0] != "service" || s.Words[1] != "create" {
		return ""
	}
	if i := slices.Index(s.Words, "--name"); i > 0 && i+1 < len(s.Words) {
		return s.Words[i+1]
	}
	return ""
}

// differencesFile has one entry for each intended difference: a line `NAME: what Docker does`, and
// indented lines with the reason.
const differencesFile = "differences.txt"

// Differences returns the reasons of the intended differences by name.
func Differences(dir string) (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, differencesFile))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	name := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] != ' ' {
			name, line, _ = strings.Cut(line, ": ")
		}
		out[name] = strings.TrimSpace(out[name] + " " + strings.TrimSpace(line))
	}
	return out, nil
}

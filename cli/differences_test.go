package cli_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"swarm/cli"
	"swarm/cli/clitest"
)

var dockerProgram = flag.String("docker", "", "the docker command line whose help -update records")

// TestDifferences compares the commands and flags that docker's help names with those of swarm, and
// both with the hand-written reasons in testdata/docker/differences.txt. From these it makes
// docs/differences-from-docker.md; -update writes it. Everything that the reasons do not mention is
// claimed to be the same, and must exist here with the same short name, kind and default.
func TestDifferences(t *testing.T) {
	const file = "docker/help.txt"
	if *dockerProgram != "" {
		clitest.Golden(t, file, recordDocker(t, *dockerProgram))
	}
	head, reasons, tail := readReasons(t, "testdata/docker/differences.txt")
	d := differences{
		t: t, reasons: reasons, used: map[reasonKey]bool{}, docker: map[string]*dockerCommand{},
		root: cli.New(cli.Deps{Dev: clitest.Maker{}, Installer: &clitest.Installer{}, Upgrade: noUpgrade{}}),
	}
	commands := readDocker(t, "testdata/"+file)
	for _, c := range commands {
		d.docker[d.ours(c.path)] = c
	}
	var b strings.Builder
	b.WriteString(head)
	for _, c := range commands {
		d.write(&b, c)
	}
	d.writeOnlyHere(&b)
	b.WriteString(tail)
	for key := range reasons {
		if !d.used[key] {
			t.Errorf("differences.txt: %q: docker's help has no such command, flag or alias: remove these lines", key)
		}
	}
	clitest.Golden(t, "../../docs/differences-from-docker.md", b.String())
}

// differences compares one command after the other.
type differences struct {
	t       *testing.T
	root    *cobra.Command
	reasons map[reasonKey]reason
	used    map[reasonKey]bool
	docker  map[string]*dockerCommand // by the path of our command
}

// ours returns the path of our command for a command of docker, without "swarm".
func (d *differences) ours(path string) string {
	if as, ok := d.reasons[reasonKey{path, "as"}]; ok {
		d.used[reasonKey{path, "as"}] = true
		return strings.TrimPrefix(as.text, "swarm ")
	}
	return strings.TrimPrefix(strings.TrimPrefix(path, "swarm"), " ")
}

// find returns our command with a path, or nil.
func (d *differences) find(path string) *cobra.Command {
	c := d.root
	for _, word := range strings.Fields(path) {
		i := slices.IndexFunc(c.Commands(), func(sub *cobra.Command) bool {
			return !sub.Hidden && (sub.Name() == word || sub.HasAlias(word))
		})
		if i < 0 {
			return nil
		}
		c = c.Commands()[i]
	}
	return c
}

// write writes the section of one command of docker, and reports what is not accounted for.
func (d *differences) write(b *strings.Builder, c *dockerCommand) {
	if !strings.Contains(c.path, " ") {
		fmt.Fprintf(b, "\n## %s\n", strings.TrimSpace("docker "+c.path))
	} else {
		fmt.Fprintf(b, "\n### docker %s\n", c.path)
	}
	whole, known := d.reason(c.path, "")
	path := d.ours(c.path)
	found := d.find(path)
	switch {
	case found == nil && whole.status != "absent":
		d.t.Errorf("docker %s: swarm has no command %q: write \"  absent: WHY\" below \"docker %s\" in differences.txt", c.path, path, c.path)
		return
	case found != nil && whole.status == "absent":
		d.t.Errorf("docker %s: differences.txt says absent, but swarm has %q: remove the line, and run with -update", c.path, path)
		return
	case found == nil:
		fill(b, "", "**Absent**: "+whole.text)
		if len(c.flags) > 0 {
			fill(b, "", fmt.Sprintf("Its flags: %s.", list(flagNames(c.flags))))
		}
		return
	}
	items := d.items(c, found)
	switch {
	case known:
		fill(b, "", fmt.Sprintf("`%s`, **%s**: %s", found.CommandPath(), whole.status, whole.text))
	case c.usage == "COMMAND":
		return // A group has only its heading.
	case strings.Contains(list(items), "**"):
		fill(b, "", fmt.Sprintf("`%s`, **same** but for what follows.", found.CommandPath()))
	default:
		fill(b, "", fmt.Sprintf("`%s`, **same**.", found.CommandPath()))
	}
	for _, item := range items {
		fill(b, "- ", item)
	}
}

// items compares the flags and aliases of a command, and returns the items of its list.
func (d *differences) items(c *dockerCommand, found *cobra.Command) []string {
	flags := flagsOf(found)
	var same, items []string
	byReason := map[reason][]string{}
	var order []reason
	for _, want := range c.flags {
		name := flagNames([]*pflag.Flag{want})[0]
		why, known := d.flag(c, want, flags.Lookup(want.Name))
		if !known {
			same = append(same, name)
			continue
		}
		if byReason[why] == nil {
			order = append(order, why)
		}
		byReason[why] = append(byReason[why], name)
	}
	if len(same) > 0 {
		items = append(items, "Same: "+list(same)+".")
	}
	for _, why := range order {
		items = append(items, fmt.Sprintf("%s, **%s**: %s", list(byReason[why]), why.status, why.text))
	}
	for _, alias := range c.aliases {
		if why, ok := d.alias(c, strings.TrimPrefix(alias, "docker ")); ok {
			items = append(items, fmt.Sprintf("`%s`, **absent**: %s", alias, why.text))
		}
	}
	var own []*pflag.Flag
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && !f.Hidden && !slices.ContainsFunc(c.flags, func(w *pflag.Flag) bool { return w.Name == f.Name }) {
			own = append(own, f)
		}
	})
	if len(own) > 0 {
		items = append(items, "Only here: "+list(flagNames(own))+".")
	}
	return items
}

// flag returns the reason why our flag is not docker's; ok is false if it is the same.
func (d *differences) flag(c *dockerCommand, want, got *pflag.Flag) (why reason, ok bool) {
	why, ok = d.reason(c.path, "--"+want.Name)
	where := fmt.Sprintf("docker %s --%s", c.path, want.Name)
	switch {
	case got == nil && why.status != "absent":
		d.t.Errorf("%s: swarm has no such flag: write \"  absent --%s: WHY\" below \"docker %s\" in differences.txt", where, want.Name, c.path)
	case got != nil && why.status == "absent":
		d.t.Errorf("%s: differences.txt says absent, but swarm has it: remove the line, and run with -update", where)
	case got != nil && !ok:
		if diff := flagDifference(want, got); diff != "" {
			d.t.Errorf("%s: %s: mend it, or write \"  better --%s: WHY\" or \"  differs\" in differences.txt", where, diff, want.Name)
		}
	}
	return why, ok
}

// alias returns the reason why we do not have another name of a command; ok is false if we have it.
func (d *differences) alias(c *dockerCommand, name string) (why reason, ok bool) {
	exists := d.find(d.ours(name)) != nil
	why, ok = d.reason(c.path, "alias "+name)
	switch {
	case !exists && !ok:
		d.t.Errorf("docker %s: swarm has no alias %q: write \"  absent alias %s: WHY\" in differences.txt", c.path, name, name)
	case exists && ok:
		d.t.Errorf("docker %s: differences.txt says that the alias %q is absent, but swarm has it: remove the line", c.path, name)
	}
	return why, ok
}

// writeOnlyHere lists the commands that docker does not have.
func (d *differences) writeOnlyHere(b *strings.Builder) {
	b.WriteString("\n## Commands that only swarm has\n\n")
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			path := strings.TrimPrefix(sub.CommandPath(), "swarm ")
			if sub.Hidden || sub.Name() == "help" {
				continue
			}
			if d.docker[path] == nil && !sub.HasAvailableSubCommands() {
				lines(b, "- ", fmt.Sprintf("`swarm %s`: %s.", path, sub.Short))
			}
			walk(sub)
		}
	}
	walk(d.root)
}

func (d *differences) reason(path, what string) (reason, bool) {
	key := reasonKey{path, what}
	r, ok := d.reasons[key]
	d.used[key] = d.used[key] || ok
	return r, ok
}

// flagsOf returns the flags of a command and of its group. The flags of the program belong to the
// root only.
func flagsOf(c *cobra.Command) *pflag.FlagSet {
	out := pflag.NewFlagSet("", pflag.ContinueOnError)
	program := c.Root().PersistentFlags()
	c.InheritedFlags() // merges the flags of the parents into c.Flags
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if c == c.Root() || program.Lookup(f.Name) != f {
			out.AddFlag(f)
		}
	})
	if c == c.Root() {
		out.AddFlagSet(program)
	}
	return out
}

// flagDifference says in which way our flag is not docker's, or returns "".
func flagDifference(docker, ours *pflag.Flag) string {
	isBool := ours.Value.Type() == "bool"
	def := ours.DefValue
	if m := helpDefault.FindStringSubmatch(ours.Usage); m != nil {
		def = m[1] + m[2]
	}
	switch {
	case docker.Shorthand != ours.Shorthand:
		return fmt.Sprintf("the short name is %q, and docker's is %q", ours.Shorthand, docker.Shorthand)
	case isBool != (docker.Usage == ""):
		return fmt.Sprintf("its value is of type %q, and docker's of type %q", ours.Value.Type(), docker.Usage)
	case docker.DefValue != "" && docker.DefValue != def:
		return fmt.Sprintf("the default is %q, and docker's is %q", def, docker.DefValue)
	}
	return ""
}

func flagNames(flags []*pflag.Flag) []string {
	var names []string
	for _, f := range flags {
		short := ""
		if f.Shorthand != "" {
			short = "-" + f.Shorthand + " "
		}
		names = append(names, "`"+short+"--"+f.Name+"`")
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Compare(a[strings.Index(a, "--"):], b[strings.Index(b, "--"):])
	})
	return names
}

func list(words []string) string { return strings.Join(words, ", ") }

// reasonKey names a command of docker and, if not empty, a flag ("--quiet"), an alias ("alias
// images"), or "as".
type reasonKey struct{ path, what string }

func (k reasonKey) String() string { return strings.TrimSpace("docker " + k.path + " " + k.what) }

// reason is why something is not as in docker. The status is absent, better, differs or same; with
// same, the text is a remark.
type reason struct{ status, text string }

// readReasons parses differences.txt: Markdown before the first and after the second line "%%", and
// between them the reasons of one command after the other.
func readReasons(t *testing.T, file string) (head string, reasons map[reasonKey]reason, tail string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(text), "%%\n")
	if len(parts) != 3 {
		t.Fatalf("%s: want two lines %%%%, got %d", file, len(parts)-1)
	}
	reasons = map[reasonKey]reason{}
	var key reasonKey
	for line := range strings.Lines(parts[1]) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "docker"):
			key = reasonKey{path: strings.TrimPrefix(strings.TrimPrefix(line, "docker"), " ")}
		case strings.HasPrefix(line, "    "):
			r := reasons[key]
			r.text += " " + strings.TrimSpace(line)
			reasons[key] = r
		default:
			key = addReason(t, reasons, key.path, strings.TrimSpace(line))
		}
	}
	return parts[0], reasons, parts[2] + behaviour(t)
}

// behaviour returns the list of the differences that the differential test knows.
func behaviour(t *testing.T) string {
	t.Helper()
	const file = "../scenarios/differential/testdata/differences.txt"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	out.WriteString("\nThe differential test plays the same commands on docker 20.10 and on swarm. Each difference that\nit finds has a name and a reason:\n")
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		name, what, isEntry := strings.Cut(line, ": ")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case isEntry && !strings.Contains(name, " "):
			fmt.Fprintf(&out, "\n- `%s`: %s\n", name, what)
		default:
			fmt.Fprintf(&out, "  %s\n", line)
		}
	}
	return out.String()
}

func addReason(t *testing.T, reasons map[reasonKey]reason, path, line string) reasonKey {
	t.Helper()
	subject, text, ok := strings.Cut(line, ": ")
	status, what, _ := strings.Cut(subject, " ")
	if status == "as" {
		what = "as"
	}
	key := reasonKey{path, what}
	if _, twice := reasons[key]; twice || !ok || !slices.Contains([]string{"absent", "better", "differs", "same", "as"}, status) {
		t.Fatalf("differences.txt: docker %s: %q: want one line STATUS [FLAG]: TEXT for each", path, line)
	}
	reasons[key] = reason{status, text}
	return key
}

// fill writes a paragraph or, with a bullet, an item of a list, wrapped at 100 columns.
func fill(b *strings.Builder, bullet, text string) {
	if bullet == "" {
		b.WriteString("\n")
	} else if !strings.HasSuffix(b.String(), "\n\n") && !inList(b.String()) {
		b.WriteString("\n")
	}
	lines(b, bullet, text)
}

// inList reports whether text ends with an item of a list.
func inList(text string) bool {
	rows := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	last := rows[len(rows)-1]
	return strings.HasPrefix(last, "- ") || strings.HasPrefix(last, "  ")
}

func lines(b *strings.Builder, bullet, text string) {
	column := len(bullet)
	b.WriteString(bullet)
	for i, word := range unbroken(text) {
		if i > 0 && column+1+len(word) > 100 {
			b.WriteString("\n" + strings.Repeat(" ", len(bullet)))
			column = len(bullet)
		} else if i > 0 {
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	b.WriteString("\n")
}

// unbroken splits text at blanks outside of `code`.
func unbroken(text string) []string {
	code := false
	return strings.FieldsFunc(text, func(r rune) bool {
		if r == '`' {
			code = !code
		}
		return r == ' ' && !code
	})
}

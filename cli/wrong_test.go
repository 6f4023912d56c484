package cli_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"swarm/cli"
	"swarm/cli/clitest"
	"swarm/cli/daemon"
)

// The table of wrong command lines, which cmd/swarm runs against a manager, has every command, and
// every flag that can have a wrong value.
func TestWrongInputCoversAllFlags(t *testing.T) {
	text, err := os.ReadFile("../cmd/swarm/testdata/wrong.txt")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "$ swarm "); ok {
			lines = append(lines, strings.TrimSpace(rest)+" ")
		}
	}
	has := func(command, flag string) bool {
		return slices.ContainsFunc(lines, func(line string) bool {
			return strings.HasPrefix(line, command+" ") && (flag == "" || strings.Contains(line, " "+flag+" ") || strings.Contains(line, " "+flag+"="))
		})
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		name := strings.TrimPrefix(c.CommandPath(), "swarm ")
		if c.Hidden || !c.HasParent() {
			return
		}
		if !has(name, "") {
			t.Errorf("no wrong line for `swarm %s`", name)
		}
		c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
			// A switch is wrong in one way everywhere, and a plain text in none that the flag
			// itself could tell.
			plain := slices.Contains([]string{"bool", "stringArray", "string"}, f.Value.Type()) && f.Name != "format"
			short := f.Shorthand != "" && has(name, "-"+f.Shorthand)
			if !plain && !short && !has(name, "--"+f.Name) {
				t.Errorf("no wrong line for `swarm %s --%s`", name, f.Name)
			}
		})
	}
	walk(cli.New(cli.Deps{Installer: &clitest.Installer{}, Dev: clitest.Maker{}, Upgrade: noUpgrade{}}))
}

type noUpgrade struct{ daemon.Upgrader }

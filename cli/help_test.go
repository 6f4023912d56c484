package cli_test

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"swarm/cli"
	"swarm/cli/clitest"
)

// TestHelp pins every command's help: words that users read are part of the interface.
func TestHelp(t *testing.T) {
	root := cli.New(cli.Deps{Dev: clitest.Maker{}, Installer: &clitest.Installer{}})
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		path := strings.Fields(c.CommandPath())
		t.Run(strings.Join(path, " "), func(t *testing.T) {
			got := clitest.Run{Dev: clitest.Maker{}, Installer: &clitest.Installer{}}.Run(t, append(path[1:], "--help")...)
			if got.Code != 0 || got.ErrOut != "" {
				t.Fatalf("got %+v", got)
			}
			clitest.Golden(t, "help/"+strings.Join(path, "-")+".golden", got.Out)
		})
		for _, sub := range c.Commands() {
			if sub.Name() != "help" {
				walk(sub)
			}
		}
	}
	walk(root)
}

func TestUnknownCommands(t *testing.T) {
	for _, tc := range []struct{ line, want string }{
		{"servce ls", `Error: unknown command "servce": did you mean "service"? (see 'swarm --help')`},
		{"service lss --format x", `Error: unknown command "service lss": did you mean "service ls"? (see 'swarm service --help')`},
		{"service frobnicate", `Error: unknown command "service frobnicate" (see 'swarm service --help')`},
		{"service ls --frob", `Error: unknown flag: --frob (see 'swarm service ls --help')`},
		{"service rm", `Error: 'swarm service rm' takes at least 1 argument, got 0: usage is swarm service rm SERVICE [SERVICE...]`},
		{"node ls extra", `Error: 'swarm node ls' takes no arguments, got 1: usage is swarm node ls [OPTIONS]`},
		{"help servce", `Error: unknown command "servce" (see 'swarm --help')`},
		{"completion tcsh", `Error: unknown shell "tcsh": use bash, zsh or fish (see 'swarm completion --help')`},
		{"--host", `Error: flag needs an argument: --host (see 'swarm --help')`},
	} {
		got := clitest.Run{}.Run(t, strings.Fields(tc.line)...)
		if got.Code == 0 || got.Out != "" || strings.TrimSpace(got.ErrOut) != tc.want {
			t.Errorf("%s: got %+v, want %q", tc.line, got, tc.want)
		}
	}
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		got := clitest.Run{}.Run(t, "completion", shell)
		if got.Code != 0 || !strings.Contains(got.Out, "swarm") {
			t.Errorf("%s: got code %d, %d bytes", shell, got.Code, len(got.Out))
		}
	}
}

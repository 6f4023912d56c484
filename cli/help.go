package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"swarm/cli/command"
	"swarm/cli/term"
)

func setHelp(deps *command.Deps, root *cobra.Command) {
	root.SetHelpFunc(func(c *cobra.Command, _ []string) { writeHelp(deps.Out, c, width(deps)) })
	root.SetUsageFunc(func(c *cobra.Command) error {
		writeHelp(deps.Err, c, width(deps))
		return nil
	})
}

func width(deps *command.Deps) int {
	if t := term.TerminalOf(deps.Out); t != nil {
		if w, _, err := t.Size(); err == nil && w > term.DefaultWidth {
			return w
		}
	}
	return term.DefaultWidth
}

// writeHelp prints a command's help in Docker's layout.
func writeHelp(w io.Writer, c *cobra.Command, width int) {
	if f := c.Flags().Lookup("help"); f != nil {
		f.Hidden = true
	}
	usage := c.UseLine()
	if c.HasAvailableSubCommands() && c.HasParent() {
		usage = c.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(w, "Usage:  %s\n", usage)
	text := c.Long
	if text == "" {
		text = c.Short
	}
	fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(text))
	if len(c.Aliases) > 0 {
		names := []string{c.CommandPath()}
		for _, alias := range c.Aliases {
			names = append(names, strings.TrimSuffix(c.CommandPath(), c.Name())+alias)
		}
		fmt.Fprintf(w, "\nAliases:\n  %s\n", strings.Join(names, ", "))
	}
	if c.Example != "" {
		fmt.Fprintf(w, "\nExamples:\n%s\n", strings.TrimRight(c.Example, "\n"))
	}
	writeCommands(w, c)
	if own := own(c); hasVisible(own) {
		fmt.Fprintf(w, "\nOptions:\n%s", flagUsages(own, width))
	}
	if inherited := inherited(c); hasVisible(inherited) {
		fmt.Fprintf(w, "\nOptions of the group:\n%s", flagUsages(inherited, width))
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(w, "\nRun '%s COMMAND --help' for more information on a command.\n", c.CommandPath())
	}
}

// own returns the flags that c itself defines. A flag of the program with the same name does not
// hide them.
func own(c *cobra.Command) *pflag.FlagSet {
	out := pflag.NewFlagSet("", pflag.ContinueOnError)
	shared := c.InheritedFlags()
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if shared.Lookup(f.Name) != f {
			out.AddFlag(f)
		}
	})
	c.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if out.Lookup(f.Name) == nil {
			out.AddFlag(f)
		}
	})
	return out
}

// inherited returns the flags of the group that c is in. The flags of the program are in the help
// of the program only.
func inherited(c *cobra.Command) *pflag.FlagSet {
	out := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.InheritedFlags().VisitAll(func(f *pflag.Flag) {
		if c.Root().PersistentFlags().Lookup(f.Name) == nil {
			out.AddFlag(f)
		}
	})
	return out
}

// flagUsages returns the usage of flags wrapped to width, without the blanks at the end of lines
// and the empty lines that pflag writes.
func flagUsages(fs *pflag.FlagSet, width int) string {
	var b strings.Builder
	for line := range strings.Lines(fs.FlagUsagesWrapped(width)) {
		if line = strings.TrimRight(line, " \n"); line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

func writeCommands(w io.Writer, c *cobra.Command) {
	pad := 0
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			pad = max(pad, len(sub.Name()))
		}
	}
	if pad == 0 {
		return
	}
	fmt.Fprint(w, "\nCommands:\n")
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			fmt.Fprintf(w, "  %-*s  %s\n", pad, sub.Name(), sub.Short)
		}
	}
}

func hasVisible(fs *pflag.FlagSet) bool {
	found := false
	fs.VisitAll(func(f *pflag.Flag) { found = found || !f.Hidden && f.Name != "help" })
	return found
}

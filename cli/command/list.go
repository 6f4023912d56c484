package command

import (
	"github.com/spf13/cobra"

	"swarm/cli/flag"
	"swarm/cli/term"
)

// ListOptions are the values of the flags that every list has.
type ListOptions struct {
	Format  term.Format
	Filters []string
}

// ListFlags adds the flags --filter, --format and --quiet to a list. filters are the keys that
// --filter takes.
func ListFlags(c *cobra.Command, o *ListOptions, quietHelp string, filters []string) {
	c.Flags().VarP(&flag.Filter{Values: &o.Filters, Keys: filters}, "filter", "f", "Filter output based on conditions provided")
	c.Flags().StringVar(&o.Format.Template, "format", "", term.FormatHelp)
	c.Flags().BoolVarP(&o.Format.Quiet, "quiet", "q", false, quietHelp)
}

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"swarm/cli/term"
	"swarm/cli/usage"
)

// inspection is what the verb `inspect` of a noun knows. References are names or ids, as users give them.
type inspection struct {
	use, short string
	complete   cobra.CompletionFunc
	object     func(ctx context.Context, c client, ref string) (term.Object, error)
	// write is for people; nil: there is no --pretty.
	write func(ctx context.Context, c client, w io.Writer, ref string) error
}

type inspectOptions struct {
	template string
	pretty   bool
	refs     []string
}

func (a *app) newInspect(i inspection) *cobra.Command {
	var o inspectOptions
	c := verb(&cobra.Command{
		Use: i.use, Short: i.short, Args: usage.MinArgs(1), ValidArgsFunction: i.complete,
		RunE: func(c *cobra.Command, args []string) error {
			o.refs = args
			return a.runInspect(c.Context(), i, o)
		},
	})
	inspectFormatFlag(c, &o.template)
	if i.write != nil {
		c.Flags().BoolVar(&o.pretty, "pretty", false, "Print the information in a human friendly format")
	}
	return c
}

func (a *app) runInspect(ctx context.Context, i inspection, o inspectOptions) error {
	if o.pretty && o.template != "" {
		return usage.Invalidf("--pretty and --format exclude each other: give one of them")
	}
	return a.with(ctx, func(c client) error {
		if o.pretty {
			return a.writeEach(ctx, c, i, o.refs)
		}
		var objects []term.Object
		missing := a.onEach(o.refs, func(ref string) error {
			one, err := i.object(ctx, c, ref)
			if err == nil {
				objects = append(objects, one)
			}
			return err
		})
		if missing != nil && len(objects) == 0 {
			return missing
		}
		for i := range objects {
			objects[i] = append(objects[i], term.Optional("Stale", a.stale, a.stale != ""))
		}
		return errors.Join(term.PrintObjects(a.Out, o.template, objects), missing)
	})
}

// writeEach prints one after the other, with an empty line between.
func (a *app) writeEach(ctx context.Context, c client, i inspection, refs []string) error {
	first := true
	return a.onEach(refs, func(ref string) error {
		var one bytes.Buffer
		if err := i.write(ctx, c, &one, ref); err != nil {
			return err
		}
		if !first {
			fmt.Fprintln(a.Out)
		}
		first = false
		_, err := one.WriteTo(a.Out)
		return err
	})
}

func inspectFormatFlag(c *cobra.Command, dst *string) {
	c.Flags().StringVarP(dst, "format", "f", "", `Format output using a custom template: 'json': Print in JSON format, 'TEMPLATE': Print output using the given Go template`)
}

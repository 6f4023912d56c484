package command

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

// Inspection describes the verb `inspect` of a noun. Object returns the object that a reference (a
// name or an id) stands for. Write prints the object for people. It is nil if the verb has no flag
// --pretty.
type Inspection struct {
	Use, Short string
	Complete   cobra.CompletionFunc
	Object     func(ctx context.Context, c Client, ref string) (term.Object, error)
	Write      func(ctx context.Context, c Client, w io.Writer, ref string) error
}

type inspectOptions struct {
	template string
	pretty   bool
	refs     []string
}

// NewInspect returns the verb `inspect` of a noun. It prints the objects that exist, in the order
// of the arguments. Its error names the objects that do not exist.
func NewInspect(deps *Deps, i Inspection) *cobra.Command {
	var o inspectOptions
	c := Verb(&cobra.Command{
		Use: i.Use, Short: i.Short, Args: usage.MinArgs(1), ValidArgsFunction: i.Complete,
		RunE: func(c *cobra.Command, args []string) error {
			o.refs = args
			return runInspect(c.Context(), deps, i, o)
		},
	})
	InspectFormatFlag(c, &o.template)
	if i.Write != nil {
		c.Flags().BoolVar(&o.pretty, "pretty", false, "Print the information in a human friendly format")
	}
	return c
}

func runInspect(ctx context.Context, deps *Deps, i Inspection, o inspectOptions) error {
	if o.pretty && o.template != "" {
		return usage.Invalidf("--pretty and --format exclude each other: give one of them")
	}
	return deps.Connect(ctx, func(c Client) error {
		if o.pretty {
			return writeEach(ctx, deps, c, i, o.refs)
		}
		var objects []term.Object
		missing := deps.OnEach(o.refs, func(ref string) error {
			one, err := i.Object(ctx, c, ref)
			if err == nil {
				objects = append(objects, one)
			}
			return err
		})
		if missing != nil && len(objects) == 0 {
			return missing
		}
		for i := range objects {
			objects[i] = append(objects[i], term.Optional("Stale", deps.stale, deps.stale != ""))
		}
		return errors.Join(term.PrintObjects(deps.Out, o.template, objects), missing)
	})
}

// writeEach prints the objects one after another, with an empty line between two of them.
func writeEach(ctx context.Context, deps *Deps, c Client, i Inspection, refs []string) error {
	first := true
	return deps.OnEach(refs, func(ref string) error {
		var one bytes.Buffer
		if err := i.Write(ctx, c, &one, ref); err != nil {
			return err
		}
		if !first {
			fmt.Fprintln(deps.Out)
		}
		first = false
		_, err := one.WriteTo(deps.Out)
		return err
	})
}

// InspectFormatFlag adds the flag --format of a command that prints objects.
func InspectFormatFlag(c *cobra.Command, dst *string) {
	c.Flags().StringVarP(dst, "format", "f", "", `Format output using a custom template: 'json': Print in JSON format, 'TEMPLATE': Print output using the given Go template`)
}

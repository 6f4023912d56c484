package service

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

func newDiff(deps *command.Deps) *cobra.Command {
	return command.Verb(&cobra.Command{
		Use: "diff SERVICE [@REVISION [@REVISION]]", Short: "Show what two revisions of a service differ in (default: the previous and the current one)",
		Args: cobra.MatchAll(usage.MinArgs(1), usage.MaxArgs(3)), ValidArgsFunction: complete.Services(deps),
		RunE: func(c *cobra.Command, args []string) error { return runDiff(c.Context(), deps, args[0], args[1:]) },
	})
}

func runDiff(ctx context.Context, deps *command.Deps, ref string, revisions []string) error {
	numbers := make([]uint64, len(revisions))
	for i, text := range revisions {
		var err error
		if numbers[i], err = parseRevision(text); err != nil {
			return err
		}
	}
	return deps.Connect(ctx, func(c command.Client) error {
		s, err := c.GetService(ctx, &swarmv1.GetRequest{Id: ref})
		if err != nil {
			return err
		}
		from, to := s.GetService().GetPreviousRevision(), s.GetService().GetRevision()
		switch len(numbers) {
		case 0:
			if from == 0 {
				return usage.Invalidf("service %s has one revision: there is nothing to compare", ref)
			}
		case 1:
			from = numbers[0]
		case 2:
			from, to = numbers[0], numbers[1]
		}
		var texts, names [2]string
		for i, number := range []uint64{from, to} {
			rev, err := wantRevision(ctx, c, s, number)
			if err != nil {
				return err
			}
			if err := nameNetworks(ctx, c, rev.GetSpec()); err != nil {
				return err
			}
			names[i] = fmt.Sprintf("%s@%d", s.GetService().GetName(), number)
			if texts[i], err = yamlText(rev.GetSpec()); err != nil {
				return err
			}
		}
		_, err = io.WriteString(deps.Out, udiff.Unified(names[0], names[1], texts[0], texts[1]))
		return err
	})
}

// yamlText returns a specification as YAML, with the names and the order of `inspect`.
func yamlText(s *swarmv1.ServiceSpec) (string, error) {
	data, err := json.Marshal(term.Describe(s))
	if err != nil {
		return "", err
	}
	var node yaml.Node // keeps the order of the members
	if err := yaml.Unmarshal(data, &node); err != nil {
		return "", err
	}
	asBlocks(&node)
	var out strings.Builder
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(&node); err != nil {
		return "", err
	}
	return out.String(), nil
}

// asBlocks gives the nodes, which are read from JSON, the usual style of YAML.
func asBlocks(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		asBlocks(child)
	}
}

// changedFields returns the names of the fields in which two specifications differ, in the order of
// `inspect`. For a field within a message, it is the innermost name.
func changedFields(a, b *swarmv1.ServiceSpec) []string {
	return appendChanged(nil, term.Describe(a), term.Describe(b))
}

func appendChanged(names []string, a, b term.Object) []string {
	for i, after := range b { // Both have the members of one message, in the same order.
		before := a[i]
		beforeObject, isObject := before.Value.(term.Object)
		afterObject, alsoObject := after.Value.(term.Object)
		switch {
		case isObject && alsoObject && len(beforeObject) == len(afterObject):
			names = appendChanged(names, beforeObject, afterObject)
		case encoded(before) != encoded(after) && !slices.Contains(names, after.Name):
			names = append(names, after.Name)
		}
	}
	return names
}

// encoded returns a member as JSON; "{}" if it is not set.
func encoded(m term.Member) string {
	data, _ := json.Marshal(term.Object{m}) // It cannot fail: the values come from a message.
	return string(data)
}

// maxChanges is how many changes `service history` names in one row of the table.
const maxChanges = 3

func changesText(names []string, all bool) string {
	if len(names) > maxChanges && !all {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxChanges], ", "), len(names)-maxChanges)
	}
	return strings.Join(names, ", ")
}

package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// eventFilters are the keys that `events --filter` takes.
var eventFilters = []string{"type", "event", "action", "service", "node", "id", "name", "label"}

type eventsOptions struct {
	since   uint64
	filters []string
	format  string
}

// NewEvents returns the verb `swarm events`.
func NewEvents(deps *command.Deps) *cobra.Command {
	var o eventsOptions
	c := command.Verb(&cobra.Command{
		Use: "events [OPTIONS]", Short: "Get real time events from the swarm", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return runEvents(c.Context(), deps, o) },
	})
	c.Flags().VarP(&flag.Filter{Values: &o.filters, Keys: eventFilters}, "filter", "f", "Filter output based on conditions provided")
	c.Flags().StringVar(&o.format, "format", "", "Format output using a custom template: 'json': Print in JSON format, 'TEMPLATE': Print output using the given Go template")
	c.Flags().Uint64Var(&o.since, "since", 0, "Show all events after this index, as an event names it (default: from now on)")
	return c
}

var (
	eventTypes = []string{
		"node", "node_state", "service", "revision", "task", "task_status", "network", "endpoint", "secret", "config", "volume",
		"image", "image_copy", "cluster", "credential",
	}
	eventActions = []string{"create", "update", "remove"}
)

// request returns the request to a manager, and the actions by which the caller must filter,
// because managers do not.
func (o eventsOptions) request(ctx context.Context, c command.Client) (req *swarmv1.WatchRequest, actions []string, err error) {
	filter, rest, err := flag.ParseFilters(o.filters, eventFilters...)
	if err != nil {
		return nil, nil, err
	}
	req = &swarmv1.WatchRequest{Filter: filter, Since: o.since, Types: rest["type"]}
	for _, t := range req.Types {
		if !slices.Contains(eventTypes, t) {
			return nil, nil, usage.Invalidf("unknown type %q: use one of %s", t, strings.Join(eventTypes, ", "))
		}
	}
	actions = append(rest["event"], rest["action"]...)
	for _, action := range actions {
		if !slices.Contains(eventActions, action) {
			return nil, nil, usage.Invalidf("unknown event %q: use one of %s", action, strings.Join(eventActions, ", "))
		}
	}
	for _, ref := range rest["service"] {
		s, err := c.GetService(ctx, &swarmv1.GetRequest{Id: ref})
		if err != nil {
			return nil, nil, err
		}
		filter.ServiceIds = append(filter.ServiceIds, s.Service.Id)
	}
	for _, ref := range rest["node"] {
		n, err := command.FindNode(ctx, c, ref)
		if err != nil {
			return nil, nil, err
		}
		filter.NodeIds = append(filter.NodeIds, n.Node.Id)
	}
	return req, actions, nil
}

func runEvents(ctx context.Context, deps *command.Deps, o eventsOptions) error {
	print := writeEvent
	if o.format != "" {
		f, err := term.ParseObjectFormat(o.format)
		if err != nil {
			return err
		}
		print = func(w io.Writer, e *swarmv1.Event) error { return f.Print(w, eventObject(e)) }
	}
	return deps.Connect(ctx, func(c command.Client) error {
		req, actions, err := o.request(ctx, c)
		if err != nil {
			return err
		}
		stream, err := c.Watch(ctx, req)
		if err != nil {
			return err
		}
		for {
			e, err := stream.Recv()
			if errors.Is(err, io.EOF) || err != nil && ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			if len(actions) > 0 && !slices.Contains(actions, term.EnumWord(e.Action)) {
				continue
			}
			if err := print(deps.Out, e); err != nil {
				return err
			}
		}
	})
}

// eventObject returns an event as the object that --format prints. The attributes depend on the
// type of the event.
func eventObject(e *swarmv1.Event) term.Object {
	return term.Object{
		{"Action", term.EnumWord(e.Action)},
		{"Actor", term.Object{{"ID", e.Id}, {"Attributes", term.Pairs(e.Attributes)}}},
		{"Attributes", term.Pairs(e.Attributes)},
		{"ID", e.Id},
		{"Index", e.Index},
		{"Scope", "swarm"},
		{"Time", term.Stamp(e.Time)},
		{"Type", e.Type},
	}
}

func writeEvent(w io.Writer, e *swarmv1.Event) error {
	attributes := make([]string, 0, len(e.Attributes)+1)
	for _, k := range slices.Sorted(maps.Keys(e.Attributes)) {
		attributes = append(attributes, k+"="+e.Attributes[k])
	}
	attributes = append(attributes, fmt.Sprintf("index=%d", e.Index))
	return term.Printf(w, "%s %s %s %s (%s)\n", term.Stamp(e.Time), e.Type, term.EnumWord(e.Action), e.Id, strings.Join(attributes, ", "))
}

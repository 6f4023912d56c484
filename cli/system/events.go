package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/eventplace"
	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
)

// The pause between two attempts to continue after the manager was lost.
const (
	minEventPause = 100 * time.Millisecond
	maxEventPause = 5 * time.Second
)

type eventsOptions struct {
	since, until string
	filters      []string
	format       string
}

// NewEvents returns the verb `swarm events`, which is also `swarm system events`.
func NewEvents(deps *command.Deps) *cobra.Command {
	var o eventsOptions
	c := command.Verb(&cobra.Command{
		Use: "events [OPTIONS]", Short: "Get real time events from the swarm", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return runEvents(c.Context(), deps, o) },
	})
	f := c.Flags()
	f.VarP(&flag.Filter{Values: &o.filters, Keys: eventplace.Keys}, "filter", "f", "Filter output based on conditions provided")
	f.StringVar(&o.format, "format", "", "Format output using a custom template: 'json': Print in JSON format, 'TEMPLATE': Print output using the given Go template")
	f.StringVar(&o.since, "since", "", `Show all events created since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.StringVar(&o.until, "until", "", `Stream events until this timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes ago)`)
	complete.Choices(c, "format", []string{"json"})
	return c
}

// request returns the request to a manager.
func (o eventsOptions) request(now time.Time) (*swarmv1.WatchRequest, error) {
	req := &swarmv1.WatchRequest{Filters: o.filters, Bookmarks: true}
	for _, f := range o.filters {
		key, value, _ := strings.Cut(f, "=")
		if err := eventplace.CheckFilter(key, value); err != nil {
			return nil, err
		}
		if key == "scope" && value != eventplace.Scope {
			return nil, usage.Invalidf("--filter scope=%s matches no event: all have the scope %s", value, eventplace.Scope)
		}
	}
	var err error
	if req.Since, err = flag.ParseTime("since", o.since, now); err != nil {
		return nil, err
	}
	if req.Until, err = flag.ParseTime("until", o.until, now); err != nil {
		return nil, err
	}
	if req.Since != nil && req.Until != nil && req.Until.AsTime().Before(req.Since.AsTime()) {
		return nil, usage.Invalidf("--until %s is before --since %s: no event can be between them", o.until, o.since)
	}
	if req.Until != nil && req.Since == nil && req.Until.AsTime().Before(now) {
		return nil, usage.Invalidf("--until %s is in the past: give --since too", o.until)
	}
	return req, nil
}

func runEvents(ctx context.Context, deps *command.Deps, o eventsOptions) error {
	print, err := o.printer(deps)
	if err != nil {
		return err
	}
	req, err := o.request(deps.Now())
	if err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		w := events{deps: deps, client: c, req: req, print: print}
		err := w.run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		return err
	})
}

// events is one run of the verb.
type events struct {
	deps   *command.Deps
	client command.Client
	req    *swarmv1.WatchRequest // its Index and Part are the place of the last event
	print  func(*swarmv1.Event) error
	begun  bool
	lost   bool // the user was told that the manager is lost
}

// run prints events until the time of --until. If the manager is lost, it continues after the last
// event as soon as the manager, or another one at the same address, answers.
func (w *events) run(ctx context.Context) error {
	rest := minEventPause
	for {
		before := w.req.GetIndex()
		err := w.stream(ctx)
		switch {
		case err == nil:
			return nil
		case w.begun && command.IsOutOfRange(err):
			return errdefs.ErrOutOfRange.WithMessage("events were missed while the manager was lost, and it does not know them any more: list the objects, and run `swarm events` again")
		case !w.begun || !command.IsUnavailable(err):
			return err
		}
		if !w.lost {
			w.lost = true
			term.Printf(w.deps.Err, "waiting to continue, the manager does not answer: %s\n", term.ErrorLine(w.deps.Explain(err)))
		}
		if w.req.GetIndex() > before {
			rest = minEventPause
		}
		if err := pause.For(ctx, rest/2+rand.N(rest)); err != nil {
			return err
		}
		rest = min(2*rest, maxEventPause)
	}
}

// stream prints the events of one call. It returns nil at the time of --until.
func (w *events) stream(ctx context.Context) error {
	stream, err := w.client.Watch(ctx, w.req)
	if err != nil {
		return err
	}
	header, err := stream.Header()
	if err != nil {
		return err
	}
	w.begin(eventplace.Parse(header))
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		w.req.Index, w.req.Part = e.GetIndex(), e.GetPart()
		if e.GetType() == "" { // a bookmark
			continue
		}
		if err := w.print(e); err != nil {
			return err
		}
	}
}

// begin notes that a watch is in place after a place.
func (w *events) begin(index uint64, part uint32, incomplete bool) {
	switch {
	case index == 0 && !incomplete: // The header is that of an error, which follows.
		return
	case w.lost:
		w.lost = false
		term.Printf(w.deps.Err, "the manager answers again: no event is missing\n")
	case incomplete:
		term.Printf(w.deps.Err, "Warning: earlier events are missing: this manager keeps only the newest ones\n")
	}
	w.begun = true
	w.req.Index, w.req.Part, w.req.Since = index, part, nil
}

// printer returns the function that prints an event as --format says.
func (o eventsOptions) printer(deps *command.Deps) (func(*swarmv1.Event) error, error) {
	if o.format == "" {
		return func(e *swarmv1.Event) error { return writeEvent(deps, e) }, nil
	}
	f, err := term.ParseObjectFormat(o.format)
	if err != nil {
		return nil, err
	}
	object := templateObject
	if o.format == "json" {
		object = jsonObject
	}
	return func(e *swarmv1.Event) error { return f.Print(deps.Out, object(e)) }, nil
}

func actor(e *swarmv1.Event) term.Object {
	return term.Object{{"ID", e.Id}, {"Attributes", term.Pairs(e.Attributes)}}
}

// jsonObject returns an event with the keys that Docker's client prints as JSON.
func jsonObject(e *swarmv1.Event) term.Object {
	return term.Object{
		{"Type", e.Type},
		{"Action", term.EnumWord(e.Action)},
		{"Actor", actor(e)},
		{"scope", eventplace.Scope},
		{"time", e.Time.AsTime().Unix()},
		{"timeNano", e.Time.AsTime().UnixNano()},
	}
}

// templateObject returns an event with the fields that templates use in Docker.
func templateObject(e *swarmv1.Event) term.Object {
	return term.Object{
		{"Type", e.Type},
		{"Action", term.EnumWord(e.Action)},
		{"Actor", actor(e)},
		{"ID", e.Id},
		{"Scope", eventplace.Scope},
		{"Time", e.Time.AsTime().Unix()},
		{"TimeNano", e.Time.AsTime().UnixNano()},
	}
}

// writeEvent prints an event as Docker does: the time has nine digits after the point, and the time
// zone of the user.
func writeEvent(deps *command.Deps, e *swarmv1.Event) error {
	attributes := make([]string, 0, len(e.Attributes))
	for _, k := range slices.Sorted(maps.Keys(e.Attributes)) {
		attributes = append(attributes, k+"="+e.Attributes[k])
	}
	details := ""
	if len(attributes) > 0 {
		details = fmt.Sprintf(" (%s)", strings.Join(attributes, ", "))
	}
	return term.Printf(deps.Out, "%s %s %s %s%s\n", eventTime(e.Time, deps.Now().Location()), e.Type, term.EnumWord(e.Action), e.Id, details)
}

func eventTime(t *timestamppb.Timestamp, zone *time.Location) string {
	return t.AsTime().In(zone).Format("2006-01-02T15:04:05.000000000Z07:00")
}

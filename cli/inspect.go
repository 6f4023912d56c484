package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

// object is a JSON object whose members keep their order.
type object []member

// member is one member of an object. It is an alias of an unnamed struct so that other packages
// may write a member as {"ID", id}.
type member = struct {
	Name  string
	Value any
}

// MarshalJSON keeps the order of the members.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for _, m := range o {
		if _, ok := m.Value.(absent); ok {
			continue
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(m.Name)
		if err != nil {
			return nil, err
		}
		value, err := marshalJSON(m.Value, "")
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// plain is the value as templates walk it.
func plain(v any) any {
	switch v := v.(type) {
	case object:
		m := make(map[string]any, len(v))
		for _, e := range v {
			if _, ok := e.Value.(absent); !ok {
				m[e.Name] = plain(e.Value)
			}
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = plain(e)
		}
		return l
	}
	return v
}

// inspection is what the verb `inspect` of a noun knows. References are names or ids, as users give them.
type inspection struct {
	use, short string
	complete   cobra.CompletionFunc
	object     func(ctx context.Context, c client, ref string) (object, error)
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
		Use: i.use, Short: i.short, Args: minArgs(1), ValidArgsFunction: i.complete,
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
		return invalid("--pretty and --format exclude each other: give one of them")
	}
	return a.with(ctx, func(c client) error {
		if o.pretty {
			return a.writeEach(ctx, c, i, o.refs)
		}
		var objects []object
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
			objects[i] = append(objects[i], optional("Stale", a.stale, a.stale != ""))
		}
		return errors.Join(printObjects(a.Out, o.template, objects), missing)
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

// printObject prints one object by --format json or a template.
func printObject(w io.Writer, tmpl string, o object) error {
	f, err := parseObjectFormat(tmpl)
	if err != nil {
		return err
	}
	return f.print(w, o)
}

// objectFormat prints objects as the flag --format asks for.
type objectFormat struct {
	t *template.Template // nil: as JSON
}

// parseObjectFormat reads the value of --format: "json" or a Go template.
func parseObjectFormat(s string) (objectFormat, error) {
	if s == "json" {
		return objectFormat{}, nil
	}
	t, err := parseTemplate(s)
	if err != nil {
		return objectFormat{}, err
	}
	return objectFormat{t.Option("missingkey=default")}, nil
}

// print writes one object. A field that o can never have is an error.
func (f objectFormat) print(w io.Writer, o object) error {
	if f.t == nil {
		return printJSON(w, o)
	}
	if err := checkFields(f.t, o); err != nil {
		return err
	}
	return execTemplate(w, f.t, plain(o))
}

// printObjects is `inspect`: all in one indented array, or one line each.
func printObjects(w io.Writer, tmpl string, objects []object) error {
	if tmpl != "" && tmpl != "json" {
		for _, o := range objects {
			if err := printObject(w, tmpl, o); err != nil {
				return err
			}
		}
		return nil
	}
	indent := "    "
	if tmpl == "json" {
		indent = ""
	}
	if objects == nil {
		objects = []object{}
	}
	b, err := marshalJSON(objects, indent)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// describe turns a message into JSON of the shape that Docker gives its own: names in CamelCase, enums as lower-case words,
// durations in nanoseconds. What is not set is left out, save for what Docker always shows.
func describe(m proto.Message) object { return describeMessage(m.ProtoReflect()) }

func describeMessage(m protoreflect.Message) object {
	out := object{}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.IsValid() || !m.Has(fd) && !alwaysShown(fd) {
			out = append(out, member{fieldName(fd), absentField(m, fd)})
			continue
		}
		out = append(out, member{fieldName(fd), describeField(fd, m.Get(fd))})
	}
	return out
}

// alwaysShown are the zero values that mean something to the reader.
func alwaysShown(fd protoreflect.FieldDescriptor) bool {
	if fd.HasPresence() || fd.IsList() || fd.IsMap() {
		return false
	}
	if fd.Kind() == protoreflect.EnumKind {
		return true
	}
	switch fd.Name() {
	case "replicas", "parallelism", "max_failure_ratio", "max_attempts", "force_update":
		return true
	}
	return false
}

func describeField(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch {
	case fd.IsMap():
		m := map[string]any{}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			m[k.String()] = describeValue(fd.MapValue(), v)
			return true
		})
		return m
	case fd.IsList():
		l := make([]any, v.List().Len())
		for i := range l {
			l[i] = describeValue(fd, v.List().Get(i))
		}
		return l
	}
	return describeValue(fd, v)
}

func describeValue(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		switch m := v.Message().Interface().(type) {
		case *timestamppb.Timestamp:
			return m.AsTime().UTC().Format(time.RFC3339Nano)
		case *durationpb.Duration:
			return m.AsDuration().Nanoseconds()
		case *swarmv1.GenericResource:
			return describeGeneric(m)
		}
		return describeMessage(v.Message())
	case protoreflect.EnumKind:
		if fd.Enum().FullName() == swarmv1.UpdateStatus_State(0).Descriptor().FullName() {
			return updateWord(swarmv1.UpdateStatus_State(v.Enum()))
		}
		if name := fd.Enum().Values().ByNumber(v.Enum()); name != nil {
			return strings.ReplaceAll(strings.ToLower(string(name.Name())), "_", "-")
		}
		return int32(v.Enum())
	case protoreflect.BytesKind:
		return base64.StdEncoding.EncodeToString(v.Bytes())
	}
	return v.Interface()
}

func describeGeneric(g *swarmv1.GenericResource) object {
	if g.Named != "" {
		return object{{"NamedResourceSpec", object{{"Kind", g.Kind}, {"Value", g.Named}}}}
	}
	return object{{"DiscreteResourceSpec", object{{"Kind", g.Kind}, {"Value", g.Value}}}}
}

// fieldName is "nano_cpus" as Docker spells it: "NanoCPUs".
func fieldName(fd protoreflect.FieldDescriptor) string {
	var b strings.Builder
	for word := range strings.SplitSeq(string(fd.Name()), "_") {
		switch word {
		case "id", "ip", "dns", "tty", "os", "uid", "gid", "tls", "ca", "oom", "vni", "ipv6":
			b.WriteString(strings.ToUpper(word))
		case "ids", "ips":
			b.WriteString(strings.ToUpper(word[:2]) + "s")
		case "cpus":
			b.WriteString("CPUs")
		case "pid":
			b.WriteString("PID")
		case "apparmor":
			b.WriteString("AppArmor")
		case "selinux":
			b.WriteString("SELinux")
		case "ipam":
			b.WriteString("IPAM")
		default:
			b.WriteString(capitalized(word))
		}
	}
	return b.String()
}

// stored is the head of every stored object.
func stored(id string, meta *swarmv1.Meta) object {
	return object{
		{"ID", id},
		{"Version", object{{"Index", meta.GetVersion()}}},
		{"CreatedAt", stamp(meta.GetCreatedAt())},
		{"UpdatedAt", stamp(meta.GetUpdatedAt())},
	}
}

// with adds a member unless the message is not set.
func (o object) with(name string, m proto.Message) object {
	if !m.ProtoReflect().IsValid() {
		return append(o, member{name, absent{func() protoreflect.Message { return m.ProtoReflect().New() }}})
	}
	return append(o, member{name, describe(m)})
}

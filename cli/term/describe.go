package term

import (
	"encoding/base64"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

// Describe returns a message as JSON in the shape of Docker's API: names in CamelCase, enums as
// lower-case words, durations in nanoseconds. Fields that are not set are left out, except those
// that Docker always shows.
func Describe(m proto.Message) Object { return describeMessage(m.ProtoReflect()) }

func describeMessage(m protoreflect.Message) Object {
	out := Object{}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.IsValid() || !m.Has(fd) && !alwaysShown(fd) {
			out = append(out, Member{fieldName(fd), absentField(m, fd)})
			continue
		}
		out = append(out, Member{fieldName(fd), describeField(fd, m.Get(fd))})
	}
	return out
}

// alwaysShown reports whether a field is shown even if it has its zero value, because that value
// has a meaning.
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
	case fd.IsMap() && fd.MapValue().Kind() == protoreflect.StringKind:
		// The element of a key that is missing is "" in a template, as in Docker.
		return describeMap(v.Map(), protoreflect.Value.String)
	case fd.IsMap():
		return describeMap(v.Map(), func(v protoreflect.Value) any { return describeValue(fd.MapValue(), v) })
	case fd.IsList():
		l := make([]any, v.List().Len())
		for i := range l {
			l[i] = describeValue(fd, v.List().Get(i))
		}
		return l
	}
	return describeValue(fd, v)
}

func describeMap[T any](m protoreflect.Map, describe func(protoreflect.Value) T) map[string]T {
	out := make(map[string]T, m.Len())
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		out[k.String()] = describe(v)
		return true
	})
	return out
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
			return UpdateWord(swarmv1.UpdateStatus_State(v.Enum()))
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

func describeGeneric(g *swarmv1.GenericResource) Object {
	if g.Named != "" {
		return Object{{"NamedResourceSpec", Object{{"Kind", g.Kind}, {"Value", g.Named}}}}
	}
	return Object{{"DiscreteResourceSpec", Object{{"Kind", g.Kind}, {"Value", g.Value}}}}
}

// fieldName returns a field's name as Docker spells it: "NanoCPUs" for "nano_cpus".
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
			b.WriteString(Capitalized(word))
		}
	}
	return b.String()
}

// Stored returns the members that every stored object begins with: id, version and times.
func Stored(id string, meta *swarmv1.Meta) Object {
	return Object{
		{"ID", id},
		{"Version", Object{{"Index", meta.GetVersion()}}},
		{"CreatedAt", Stamp(meta.GetCreatedAt())},
		{"UpdatedAt", Stamp(meta.GetUpdatedAt())},
	}
}

// With returns the object with one more member for the message m. JSON leaves the member out if m
// is nil.
func (o Object) With(name string, m proto.Message) Object {
	if !m.ProtoReflect().IsValid() {
		return append(o, Member{name, absent{message: func() protoreflect.Message { return m.ProtoReflect().New() }}})
	}
	return append(o, Member{name, Describe(m)})
}

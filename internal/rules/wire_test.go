package rules

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	swarmv1 "swarm/proto/swarm/v1"
)

var update = flag.Bool("update", false, "rewrite golden files")

// The descriptor's golden file shows, in a diff, every change of what is on the wire and in the
// log. Adding a line is compatible; changing or removing one is not: nodes of two builds run side
// by side, and logs are read by later builds.
func TestWireStaysCompatible(t *testing.T) {
	var lines []string
	for _, file := range []protoreflect.FileDescriptor{
		swarmv1.File_swarm_v1_spec_proto, swarmv1.File_swarm_v1_object_proto, swarmv1.File_swarm_v1_raft_proto,
		swarmv1.File_swarm_v1_ca_proto, swarmv1.File_swarm_v1_dispatch_proto, swarmv1.File_swarm_v1_control_proto,
		swarmv1.File_swarm_v1_daemon_proto, swarmv1.File_swarm_v1_doctor_proto, swarmv1.File_swarm_v1_resolve_proto,
	} {
		lines = append(lines, messages(file.Messages())...)
		lines = append(lines, enums(file.Enums())...)
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				m := methods.Get(j)
				lines = append(lines, fmt.Sprintf("rpc %s (%s stream=%v) (%s stream=%v)", m.FullName(), m.Input().FullName(), m.IsStreamingClient(), m.Output().FullName(), m.IsStreamingServer()))
			}
		}
	}
	slices.Sort(lines)
	const golden = "testdata/wire.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	for want := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n") {
		if !slices.Contains(lines, want) {
			t.Errorf("gone or changed on the wire: %s", want)
		}
		lines = slices.DeleteFunc(lines, func(l string) bool { return l == want })
	}
	for _, line := range lines {
		t.Errorf("new on the wire, not in %s (run with -update): %s", golden, line)
	}
}

func messages(all protoreflect.MessageDescriptors) (lines []string) {
	for i := range all.Len() {
		m := all.Get(i)
		for j := range m.Fields().Len() {
			f := m.Fields().Get(j)
			kind := f.Kind().String()
			if f.Message() != nil {
				kind = string(f.Message().FullName())
			} else if f.Enum() != nil {
				kind = string(f.Enum().FullName())
			}
			lines = append(lines, fmt.Sprintf("%s %d %s %s %s", m.FullName(), f.Number(), f.Name(), f.Cardinality(), kind))
		}
		lines = append(lines, messages(m.Messages())...)
		lines = append(lines, enums(m.Enums())...)
	}
	return lines
}

func enums(all protoreflect.EnumDescriptors) (lines []string) {
	for i := range all.Len() {
		values := all.Get(i).Values()
		for j := range values.Len() {
			lines = append(lines, fmt.Sprintf("%s %d %s", all.Get(i).FullName(), values.Get(j).Number(), values.Get(j).Name()))
		}
	}
	return lines
}

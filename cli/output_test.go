package cli_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"swarm/cli/clitest"
	"swarm/cli/system"
	swarmv1 "swarm/proto/swarm/v1"
)

// evil is what hostile nodes, containers and specs say; dull has its length, and is harmless.
const (
	evil = "\x1b]0;owned\x07\x1b[2J\u009b1A\u202e\u2066\x7f\r\nforged 1/1 Running"
	dull = "_________________________________________________"
)

// poison appends text to every string of a message, and to the keys of maps, except to ids, which
// requests name.
func poison(m protoreflect.Message, text string) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(f.Name())
		isID := name == "id" || name == "digest" || strings.HasSuffix(name, "_id") || strings.HasSuffix(name, "_ids")
		switch {
		case f.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
				switch f.MapValue().Kind() {
				case protoreflect.StringKind:
					v.Map().Set(k, protoreflect.ValueOfString(e.String()+text))
				case protoreflect.MessageKind:
					poison(e.Message(), text)
				}
				return true
			})
			if f.MapValue().Kind() == protoreflect.StringKind {
				v.Map().Set(protoreflect.ValueOfString("key"+text).MapKey(), protoreflect.ValueOfString(text))
			}
		case f.IsList() && f.Kind() == protoreflect.MessageKind:
			for i := range v.List().Len() {
				poison(v.List().Get(i).Message(), text)
			}
		case f.IsList() && f.Kind() == protoreflect.StringKind && !isID:
			for i := range v.List().Len() {
				v.List().Set(i, protoreflect.ValueOfString(v.List().Get(i).String()+text))
			}
		case !f.IsList() && f.Kind() == protoreflect.MessageKind:
			poison(v.Message(), text)
		case !f.IsList() && f.Kind() == protoreflect.StringKind && !isID:
			m.Set(f, protoreflect.ValueOfString(v.String()+text))
		}
		return true
	})
}

// hostileServer says text wherever others than the operator may have put theirs.
func hostileServer(t *testing.T, text string) *clitest.Server {
	t.Helper()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := clitest.WebServer(t, now)
	s.Networks = clitest.NetworkServer().Networks
	s.Usage = []*swarmv1.NodeUsage{
		{NodeId: "n1", Hostname: "host1", Usage: &swarmv1.DiskUsageResponse{Path: "/var/lib/swarm", Volumes: []*swarmv1.HeldVolume{{Name: "data", Links: 1, Size: 5e6}}}},
		{NodeId: "n2", Hostname: "host2", Error: "connection refused"},
	}
	s.Nodes[0].State.Description.PortConflicts = []*swarmv1.PortConflict{{Port: 81, Protocol: "udp", Kind: swarmv1.PortConflict_UNABLE, Reason: "in use"}}
	s.Nodes[0].State.Message, s.Nodes[0].State.Description.Unavailable = "no session", "its disk is full"
	s.Info = &swarmv1.InfoResponse{
		NodeId: "a1b2c3d4e5f6g7h8i9j0k1l2m", LocalNodeState: "active", ControlAvailable: true, Error: "no", HostChanges: []string{"a rule"},
		Version:     &swarmv1.VersionInfo{Version: "v1", Runc: "1", Build: "b"},
		Members:     []*swarmv1.Member{{NodeId: "n", Addr: "192.0.2.1", Status: "alive"}},
		Description: &swarmv1.NodeDescription{Hostname: "host", Unavailable: "no"},
	}
	s.Images = []*swarmv1.ImageInfo{{Image: &swarmv1.Image{Id: "i1", Name: "docker.io/library/web:1", Digest: "sha256:abcd"}}}
	s.Events = []*swarmv1.Event{{Index: 7, Type: "node", Action: swarmv1.Event_CREATE, Id: "s1", Attributes: map[string]string{"name": "web"}}}
	s.Cluster = clitest.TokenServer().Cluster
	rows := []proto.Message{s.Info, s.Cluster, s.Events[0], s.Images[0]}
	for _, n := range s.Nodes {
		rows = append(rows, n)
	}
	for _, n := range s.Networks {
		rows = append(rows, n)
	}
	for _, u := range s.Usage {
		rows = append(rows, u)
	}
	for _, svc := range s.Services {
		rows = append(rows, svc)
	}
	for _, task := range s.Tasks {
		rows = append(rows, task)
	}
	for _, row := range rows {
		poison(row.ProtoReflect(), text)
	}
	s.Records = []*swarmv1.LogRecord{
		{TaskId: "taskaaaaaaaaaaaaaaaaaaaa2", Data: []byte("out" + strings.ReplaceAll(text, "\n", "") + "\n")},
		{TaskId: "taskaaaaaaaaaaaaaaaaaaaa2", Stream: swarmv1.LogRecord_STDERR, Data: []byte("err" + strings.ReplaceAll(text, "\n", "") + "\n")},
	}
	s.LogNotices = []string{"node" + text}
	s.LogDetails = []*swarmv1.LogDetails{{TaskId: "taskaaaaaaaaaaaaaaaaaaaa2", Details: map[string]string{"a": text}}}
	s.OnExec = func(stream swarmv1.Control_ExecServer) error {
		for _, part := range []string{text[:1], text[1:12], text[12:]} { // Characters are cut.
			if err := stream.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_Stdout{Stdout: []byte(part)}}); err != nil {
				return err
			}
		}
		return stream.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_ExitCode{}})
	}
	return s
}

// acted is what a terminal would act on.
var acted = regexp.MustCompile("[\x00-\x08\x0b-\x1f\x7f-\u009f\u202a-\u202e\u2066-\u2069]")

// Every path by which words of others come to the operator, on a terminal and into a file: none of
// them may control the terminal, and none may forge a line.
func TestOutput_ControlsNoTerminal(t *testing.T) {
	const task = "taskaaaaaaaaaaaaaaaaaaaa2"
	for _, args := range [][]string{
		{"node", "ls"},
		{"node", "ls", "-q"},
		{"node", "ls", "--format", "{{.Hostname}}"},
		{"node", "ls", "--format", "json"},
		{"node", "ls", "--format", "table {{.Hostname}}"},
		{"node", "inspect", "self"},
		{"node", "inspect", "--pretty", "self"},
		{"node", "inspect", "--pretty", "b2c3d4e5f6g7h8i9j0k1l2m3n"},
		{"node", "ps", "self"},
		{"node", "inspect", "--format", "{{.Description.Hostname}}", "self"},
		{"service", "ls"},
		{"service", "ls", "--format", "json"},
		{"service", "ps", "svc0000000000000000000001"},
		{"service", "ps", "--no-trunc", "svc0000000000000000000001"},
		{"service", "inspect", "svc0000000000000000000001"},
		{"service", "inspect", "--pretty", "svc0000000000000000000001"},
		{"service", "logs", "--details", "--timestamps", "svc0000000000000000000001"},
		{"task", "ls"},
		{"task", "inspect", task},
		{"task", "logs", task},
		{"network", "ls"},
		{"network", "inspect", "net0000000000000000000001"},
		{"image", "ls"},
		{"image", "ls", "--digests"},
		{"system", "df"},
		{"system", "df", "-v"},
		{"info"},
		{"version"},
		{"events"},
		{"events", "--format", "{{.Actor.Attributes.name}}"},
		{"events", "--format", "json"},
		{"doctor"},
		{"exec", "web", "cat"},
		{"join-token", "worker"},
		{"service", "inspect", "no" + evil},
		{"service", evil},
		{"service", "ls", "--filter", evil},
		{"service", "ls", "--format", "{{" + evil},
		{"--" + evil},
	} {
		for _, tty := range []bool{true, false} {
			lines := map[string]int{}
			for _, text := range []string{evil, dull} {
				asked := system.DoctorRequest{}
				got := clitest.Run{Server: hostileServer(t, text), Tty: tty, Doctor: clitest.Findings(&asked, system.Finding{Level: "warning", Subject: "s" + text, Text: text, Remedy: text})}.Run(t, args...)
				all := got.Out + got.ErrOut
				lines[text] = strings.Count(all, "\n")
				isStream := args[0] == "exec" || args[1%len(args)] == "logs"
				if isStream && !tty {
					continue // bytes as they are
				}
				if bad := acted.FindString(strings.ReplaceAll(all, "\r\n", "\n")); bad != "" {
					t.Errorf("swarm %q, terminal %v: %q in %q", args, tty, bad, all)
				}
				if text == evil && got.Code != 0 && !strings.Contains(strings.Join(args, ""), evil) {
					t.Errorf("swarm %q: %+v", args, got)
				}
			}
			// A template prints a value of an object whole, line ends among the rest.
			whole := args[0] == "exec" || slices.Contains(args, "--format") && slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "{{.") }) && args[1] != "ls"
			if !whole && lines[evil] != lines[dull] {
				t.Errorf("swarm %q, terminal %v: %d lines, want %d", args, tty, lines[evil], lines[dull])
			}
		}
	}
}

// The bytes of containers pass as they are where nobody sits, and where they are asked for.
func TestOutput_KeepsBytes(t *testing.T) {
	for _, tc := range []struct {
		tty  bool
		args []string
	}{
		{false, []string{"exec", "web", "cat"}},
		{true, []string{"exec", "-t", "web", "cat"}},
		{false, []string{"service", "logs", "svc0000000000000000000001"}},
		{false, []string{"service", "logs", "--raw", "svc0000000000000000000001"}},
		{true, []string{"service", "logs", "--raw", "svc0000000000000000000001"}},
	} {
		got := clitest.Run{Server: hostileServer(t, evil), Tty: tc.tty}.Run(t, tc.args...)
		if want := strings.ReplaceAll(evil, "\n", ""); !strings.Contains(strings.ReplaceAll(got.Out, "\n", ""), want) {
			t.Errorf("swarm %q, terminal %v: got %q, want %q in it", tc.args, tc.tty, got.Out, want)
		}
	}
}

// The picture of progress moves the cursor; what nodes say of their tasks does not.
func TestOutput_Progress(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, testProgress)
}

func testProgress(t *testing.T) {
	s := hostileServer(t, "")
	s.Services, s.OnExec = nil, nil
	failed := clitest.Task("t1", 1, swarmv1.TaskState_REJECTED, 0, time.Now())
	failed.NodeName = evil
	for _, tty := range []bool{true, false} {
		s.Waits = []clitest.WaitStep{{
			Progress: &swarmv1.ServiceProgress{ServiceName: "web", Note: evil, Slots: []*swarmv1.SlotProgress{{Label: evil, Detail: evil}}},
			Verdict:  &swarmv1.ServiceVerdict{Reason: evil, Outlook: evil, Hint: evil, Task: failed, Log: []*swarmv1.LogRecord{{Data: []byte(evil)}}},
		}}
		got := clitest.Run{Server: s, Tty: tty}.Run(t, "service", "create", "--restart-condition", "none", "--name", "web", "nginx")
		drawn := regexp.MustCompile(`\x1b\[\d*[AJK]`).ReplaceAllString(strings.ReplaceAll(got.ErrOut, "\r\n", "\n"), "")
		if bad := acted.FindString(drawn); bad != "" || strings.Contains(drawn, "\nforged") || !strings.Contains(drawn, `owned\x07`) {
			t.Errorf("terminal %v: %q in %q", tty, bad, drawn)
		}
	}
}

func TestOutput_Error(t *testing.T) {
	fails := func(swarmv1.Control_ExecServer) error {
		return status.Error(codes.Internal, "first\x1b[2J\nsecond\u202e")
	}
	got := clitest.Run{Server: &clitest.Server{OnExec: fails}}.Run(t, "exec", "web", "ls")
	if want := `Error: first\x1b[2J; second\u202e` + "\n"; got.ErrOut != want || got.Code != 125 {
		t.Errorf("got %+v, want %q", got, want)
	}
}

// Values are printed with term.Printf, which escapes them so that each stays on its line. Help is
// our own text. An exception has a comment "not term.Printf: REASON" at the end of its line.
func TestOutput_ValuesGoThroughPrintf(t *testing.T) {
	files := []string{}
	if err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".go") {
			files = append(files, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	direct := regexp.MustCompile(`fmt\.Fprintf\(|fmt\.Fprint(ln)?\([^,()]+, ([^"]|"[^"]*"[^)])`)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || file == "term/output.go" || file == "help.go" {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for n, line := range strings.Split(string(text), "\n") {
			if direct.MatchString(line) && !strings.Contains(line, "// not term.Printf: ") {
				t.Errorf("%s:%d: use term.Printf: %s", file, n+1, strings.TrimSpace(line))
			}
		}
	}
}

package cli_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

// echoExec is a container whose command is cat, and whose exit code is how often it was resized plus the length of the input.
func echoExec(started **swarmv1.ExecStart) func(swarmv1.Control_ExecServer) error {
	return func(stream swarmv1.Control_ExecServer) error {
		n := 0
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			switch m := m.Message.(type) {
			case *swarmv1.ExecInput_Start:
				*started = m.Start
				if !m.Start.Stdin {
					return stream.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_ExitCode{ExitCode: 0}})
				}
			case *swarmv1.ExecInput_Stdin:
				n += len(m.Stdin)
				if err := stream.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_Stdout{Stdout: m.Stdin}}); err != nil {
					return err
				}
			case *swarmv1.ExecInput_CloseStdin:
				if err := stream.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_Stderr{Stderr: []byte("bye\n")}}); err != nil {
					return err
				}
				return stream.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_ExitCode{ExitCode: int32(n)}})
			}
		}
	}
}

func TestExec(t *testing.T) {
	s := webServer(t, time.Now())
	var started *swarmv1.ExecStart
	s.exec = echoExec(&started)
	// Which task that is, the manager decides: the same rule as everywhere.
	for _, ref := range []string{"web", "web.1", "taskaaaaaaaaaaaaaaaaaaaa1"} {
		started = nil
		got := run{server: s}.run(t, "exec", "-e", "A=1", "-u", "7", "-w", "/w", ref, "ls", "-l")
		if got.code != 0 || started.GetTaskId() != ref || strings.Join(started.Command, " ") != "ls -l" || started.User != "7" || started.Dir != "/w" || started.Env[0] != "A=1" {
			t.Errorf("%s: got %+v, %v", ref, got, started)
		}
	}
	s.exec = func(swarmv1.Control_ExecServer) error { return notFound("task or service", "nope") }
	refusedWith(t, 125, "no task", run{server: s}.run(t, "exec", "nope", "ls"), "task or service nope: not found")
}

func TestExecPassesInputAndExitCode(t *testing.T) {
	s := webServer(t, time.Now())
	var started *swarmv1.ExecStart
	s.exec = echoExec(&started)
	got := run{server: s, stdin: strings.NewReader("hello\n")}.run(t, "exec", "-i", "web", "cat")
	if got.code != 6 || got.out != "hello\n" || got.errOut != "bye\n" {
		t.Errorf("got %+v, want code 6, the input, and bye", got)
	}
	refused(t, "-t", run{server: s}.run(t, "exec", "-it", "web", "sh"), "the input device is not a terminal")
	s.exec = func(swarmv1.Control_ExecServer) error { return nil }
	refusedWith(t, 125, "no code", run{server: s}.run(t, "exec", "web", "sh"), "the session ended without an exit code")
}

func TestImageLoad(t *testing.T) {
	archive := bytes.Repeat([]byte("0123456789abcdef"), 100_000) // three messages and a bit
	file := filepath.Join(t.TempDir(), "app.tar")
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]struct {
		run  run
		args []string
		size int64
	}{
		"stdin": {run{stdin: bytes.NewReader(archive)}, []string{"image", "load"}, 0},
		"file":  {run{}, []string{"image", "load", "-i", file, "--name", "app:1"}, int64(len(archive))},
	} {
		s := &fakeServer{}
		r.run.server = s
		got := r.run.run(t, r.args...)
		if got.code != 0 || got.out != "Loaded image: app:1\n" || !strings.Contains(got.errOut, "reading archive\n") {
			t.Errorf("%s: got %+v", name, got)
		}
		if !bytes.Equal(s.loaded, archive) || s.loadReq.Size != r.size {
			t.Errorf("%s: %d bytes arrived of size %d, want %d of %d", name, len(s.loaded), s.loadReq.Size, len(archive), r.size)
		}
	}
}

// endless is an archive that never ends, as one that somebody writes slowly.
type endless struct{ first bool }

func (e *endless) Read(p []byte) (int, error) {
	if !e.first {
		e.first = true
		return copy(p, "not a tar"), nil
	}
	return len(p), nil
}

func TestImageLoadRefused(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args, want string
	}{
		{"-i /nonexistent", "archive /nonexistent cannot be read: no such file or directory"},
		{"-i " + dir, "is a folder"},
		{"-i " + empty, "is empty"},
		{"--name NAME", `image "NAME" is not a valid reference`},
		{"", "the archive is empty"},
	} {
		refused(t, tc.args, run{server: &fakeServer{}}.run(t, append([]string{"image", "load"}, strings.Fields(tc.args)...)...), tc.want)
	}
	got := run{server: &fakeServer{}, stdin: &endless{}}.run(t, "image", "load")
	refused(t, "by the server", got, "archive is neither an OCI nor a Docker archive")
}

func TestImageLs(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &fakeServer{images: []*swarmv1.ImageInfo{
		{NodeIds: []string{"a", "b", "c"}, Image: &swarmv1.Image{
			Id: "i1", Name: "registry.example.org/app:1", Digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", Size: 5_500_000,
			Loaded: true, Meta: &swarmv1.Meta{CreatedAt: timestamppb.New(now.Add(-2 * time.Hour))},
		}},
		{Image: &swarmv1.Image{Id: "i2", Name: "docker.io/library/redis:7", Digest: "sha256:abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789"}},
	}}
	for name, args := range map[string][]string{
		"image-ls": {"image", "ls"}, "image-ls-digests": {"image", "ls", "--digests", "redis"}, "image-ls-quiet": {"image", "ls", "-q", "redis:7"}, "image-ls-json": {"image", "ls", "--format", "json"},
	} {
		got := run{server: s, now: now}.run(t, args...)
		if got.code != 0 {
			t.Errorf("%s: got %+v", name, got)
		}
		golden(t, name+".golden", got.out)
	}
}

func TestLogs(t *testing.T) {
	s := webServer(t, time.Now())
	at := timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC))
	s.logs = []*swarmv1.LogRecord{
		{TaskId: "taskaaaaaaaaaaaaaaaaaaaa2", Timestamp: at, Stream: swarmv1.LogRecord_STDOUT, Data: []byte("hel"), Partial: true},
		{TaskId: "taskaaaaaaaaaaaaaaaaaaaa2", Timestamp: at, Stream: swarmv1.LogRecord_STDERR, Data: []byte("oops\n")},
		{TaskId: "taskaaaaaaaaaaaaaaaaaaaa2", Timestamp: at, Stream: swarmv1.LogRecord_STDOUT, Data: []byte("lo\n")},
	}
	got := run{server: s}.run(t, "service", "logs", "web")
	if got.code != 0 || got.out != "web.1.taskaaaaaaaa@host2     | hello\n" || got.errOut != "web.1.taskaaaaaaaa@host2     | oops\n" {
		t.Errorf("got %+v", got)
	}
	if s.logsReq.Service == "" || s.logsReq.Options.Tail != -1 {
		t.Errorf("asked for %v", s.logsReq)
	}
	got = run{server: s}.run(t, "task", "logs", "--raw", "-t", "-n", "5", "--since", "2026-01-01", "taskaaaaaaaaaaaaaaaaaaaa2")
	if got.out != "2026-01-02T03:04:05.000000006Z hello\n" || s.logsReq.Task != "taskaaaaaaaaaaaaaaaaaaaa2" || s.logsReq.Options.Tail != 5 || s.logsReq.Options.Since == nil {
		t.Errorf("got %+v, %v", got, s.logsReq)
	}
	s.logDetails = []*swarmv1.LogDetails{{TaskId: "taskaaaaaaaaaaaaaaaaaaaa2", Details: map[string]string{"b": "2", "a": "1"}}}
	s.logNotices = []string{"node host3 cannot be asked"}
	got = run{server: s}.run(t, "service", "logs", "--details", "--timestamps", "web")
	const front = "2026-01-02T03:04:05.000000006Z web.1.taskaaaaaaaa@host2     | a=1,b=2 "
	if got.out != front+"hello\n" || got.errOut != "swarm: node host3 cannot be asked\n"+front+"oops\n" || !s.logsReq.Options.Details {
		t.Errorf("got %+v", got)
	}
	refused(t, "tail", run{server: s}.run(t, "service", "logs", "--tail", "x", "web"), `--tail "x" is not a number of lines`)
	refused(t, "since", run{server: s}.run(t, "service", "logs", "--since", "x", "web"), `--since "x" is not a time`)
}

// A line without end is printed as it comes, and what others say meanwhile stands on lines of its own. Raw bytes stay raw.
func TestLogs_LinesWithoutEnd(t *testing.T) {
	s := webServer(t, time.Now())
	task := "taskaaaaaaaaaaaaaaaaaaaa2"
	part := func(stream swarmv1.LogRecord_Stream, data string, partial bool) *swarmv1.LogRecord {
		return &swarmv1.LogRecord{TaskId: task, Stream: stream, Data: []byte(data), Partial: partial}
	}
	long := strings.Repeat("x", 16<<10)
	for range 100 {
		s.logs = append(s.logs, part(swarmv1.LogRecord_STDOUT, long, true))
	}
	s.logs = append(s.logs, part(swarmv1.LogRecord_STDERR, "meanwhile", false), part(swarmv1.LogRecord_STDOUT, "\x00end", true),
		&swarmv1.LogRecord{TaskId: task, Stream: swarmv1.LogRecord_STDERR, Lost: 7})
	const front = "web.1.taskaaaaaaaa@host2     | "
	xs := strings.Repeat(long, 100)
	got := run{server: s}.run(t, "service", "logs", "web")
	first := longestLine
	if want := front + xs[:first] + "\n" + front + xs[first:] + "\x00end\n"; got.out != want {
		t.Errorf("got %d bytes, want %d", len(got.out), len(want))
	}
	if want := front + "meanwhile\nswarm: 7 bytes of task " + task + " were not kept: they came faster than they could be copied\n"; got.errOut != want {
		t.Errorf("got %q, want %q", got.errOut, want)
	}
	got = run{server: s}.run(t, "task", "logs", "--raw", task)
	if want := xs + "\x00end"; got.out != want {
		t.Errorf("raw: got %d bytes, want %d", len(got.out), len(want))
	}
}

// longestLine is where a line is cut when somebody else speaks.
const longestLine = 1 << 20

func TestEvents(t *testing.T) {
	s := webServer(t, time.Now())
	at := timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	s.events = []*swarmv1.Event{
		{Index: 7, Time: at, Type: "service", Action: swarmv1.Event_CREATE, Id: "s1", Attributes: map[string]string{"name": "web", "a": "b"}},
		{Index: 8, Time: at, Type: "service", Action: swarmv1.Event_REMOVE, Id: "s1"},
	}
	got := run{server: s}.run(t, "events", "--since", "6", "--filter", "type=service", "--filter", "service=web", "--filter", "event=create")
	if got.code != 0 || got.out != "2026-01-02T03:04:05Z service create s1 (a=b, name=web, index=7)\n" {
		t.Errorf("got %+v", got)
	}
	if s.watchReq.Since != 6 || s.watchReq.Types[0] != "service" || s.watchReq.Filter.ServiceIds[0] != "svc0000000000000000000001" {
		t.Errorf("asked for %v", s.watchReq)
	}
	got = run{server: s}.run(t, "events", "--format", "{{.Action}} {{.ID}} {{.Actor.Attributes.name}}", "--filter", "action=create")
	if got.out != "create s1 web\n" {
		t.Errorf("template: got %+v", got)
	}
	refused(t, "type", run{server: s}.run(t, "events", "--filter", "type=x"), `unknown type "x"`)
}

func TestCompletion(t *testing.T) {
	s := webServer(t, time.Now())
	s.networks = append(networkServer().networks, &swarmv1.NetworkInfo{Network: &swarmv1.Network{Id: "host", Spec: &swarmv1.NetworkSpec{Name: "host"}}},
		&swarmv1.NetworkInfo{Network: &swarmv1.Network{Id: "net9", Spec: &swarmv1.NetworkSpec{Name: "ingress", Ingress: true}}})
	global := &swarmv1.ServiceInfo{Service: &swarmv1.Service{Id: "svc2", Name: "glob"}, Revision: &swarmv1.Revision{Spec: spec(t, "mode{global{}}")}}
	s.services = append(s.services, global)
	for _, tc := range []struct{ line, want string }{
		{"service rm w", "web"},
		{"service scale w", "web="},
		{"node inspect h", "host1"},
		{"exec web", "web.1\thost2"},
		{"service create --mode gl", "global"},
		{"join-token m", "manager"},
		{"service create --network w", "web"},
		{"service update --network-add w", "web"},
		{"service create --constraint node.r", "node.role=="},
		{"node ls --filter r", "role="},
		{"service ls --format j", "json"},
		{"image pull --node h", "host1"},
	} {
		got := run{server: s}.run(t, append([]string{"__complete"}, strings.Split(tc.line, " ")...)...)
		if !strings.Contains(got.out, tc.want+"\n") {
			t.Errorf("%s: got %+v, want %q", tc.line, got, tc.want)
		}
	}
	// What cannot be done is not offered, nor are files where none are meant.
	for line, want := range map[string]string{
		"service scale ": "web=\n:6\n", "network rm ": "web\n:4\n", "service create --secret ": ":4\n", "service create --mount ": ":4\n",
		"service create --network ": "bridge\nweb\nhost\n:4\n",
		"join --token-file ":        ":0\n", "service create --env-file ": ":0\n",
	} {
		if got := (run{server: s}).run(t, append([]string{"__complete"}, strings.Split(line, " ")...)...); got.out != want {
			t.Errorf("%s: got %q, want %q", line, got.out, want)
		}
	}
	if got := (run{}).run(t, "__complete", "service", "rm", ""); got.out != ":4\n" {
		t.Errorf("without a daemon: got %+v", got)
	}
}

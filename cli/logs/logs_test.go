package logs_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestLogs(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	at := timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC))
	s.Records = []*swarmv1.LogRecord{
		{TaskId: "taskaaaaaaaaaaaaaaaaaaaa2", Timestamp: at, Stream: swarmv1.LogRecord_STDOUT, Data: []byte("hel"), Partial: true},
		{TaskId: "taskaaaaaaaaaaaaaaaaaaaa2", Timestamp: at, Stream: swarmv1.LogRecord_STDERR, Data: []byte("oops\n")},
		{TaskId: "taskaaaaaaaaaaaaaaaaaaaa2", Timestamp: at, Stream: swarmv1.LogRecord_STDOUT, Data: []byte("lo\n")},
	}
	got := clitest.Run{Server: s}.Run(t, "service", "logs", "web")
	if got.Code != 0 || got.Out != "web.1.taskaaaaaaaa@host2     | hello\n" || got.ErrOut != "web.1.taskaaaaaaaa@host2     | oops\n" {
		t.Errorf("got %+v", got)
	}
	if s.LogsReq.Service == "" || s.LogsReq.Options.Tail != -1 {
		t.Errorf("asked for %v", s.LogsReq)
	}
	got = clitest.Run{Server: s}.Run(t, "task", "logs", "--raw", "-t", "-n", "5", "--since", "2026-01-01", "taskaaaaaaaaaaaaaaaaaaaa2")
	if got.Out != "2026-01-02T03:04:05.000000006Z hello\n" || s.LogsReq.Task != "taskaaaaaaaaaaaaaaaaaaaa2" || s.LogsReq.Options.Tail != 5 || s.LogsReq.Options.Since == nil {
		t.Errorf("got %+v, %v", got, s.LogsReq)
	}
	s.LogDetails = []*swarmv1.LogDetails{{TaskId: "taskaaaaaaaaaaaaaaaaaaaa2", Details: map[string]string{"b": "2", "a": "1"}}}
	s.LogNotices = []string{"node host3 cannot be asked"}
	got = clitest.Run{Server: s}.Run(t, "service", "logs", "--details", "--timestamps", "web")
	const front = "2026-01-02T03:04:05.000000006Z web.1.taskaaaaaaaa@host2     | a=1,b=2 "
	if got.Out != front+"hello\n" || got.ErrOut != "swarm: node host3 cannot be asked\n"+front+"oops\n" || !s.LogsReq.Options.Details {
		t.Errorf("got %+v", got)
	}
	clitest.Refused(t, "tail", clitest.Run{Server: s}.Run(t, "service", "logs", "--tail", "x", "web"), `--tail "x" is not a number of lines`)
	clitest.Refused(t, "since", clitest.Run{Server: s}.Run(t, "service", "logs", "--since", "x", "web"), `--since "x" is not a time`)
}

// A line without an end is printed as it comes. Output of other tasks that comes meanwhile is
// printed on other lines. Raw bytes stay raw.
func TestLogs_LinesWithoutEnd(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	task := "taskaaaaaaaaaaaaaaaaaaaa2"
	part := func(stream swarmv1.LogRecord_Stream, data string, partial bool) *swarmv1.LogRecord {
		return &swarmv1.LogRecord{TaskId: task, Stream: stream, Data: []byte(data), Partial: partial}
	}
	long := strings.Repeat("x", 16<<10)
	for range 100 {
		s.Records = append(s.Records, part(swarmv1.LogRecord_STDOUT, long, true))
	}
	s.Records = append(s.Records, part(swarmv1.LogRecord_STDERR, "meanwhile", false), part(swarmv1.LogRecord_STDOUT, "\x00end", true),
		&swarmv1.LogRecord{TaskId: task, Stream: swarmv1.LogRecord_STDERR, Lost: 7})
	const front = "web.1.taskaaaaaaaa@host2     | "
	xs := strings.Repeat(long, 100)
	got := clitest.Run{Server: s}.Run(t, "service", "logs", "web")
	first := longestLine
	if want := front + xs[:first] + "\n" + front + xs[first:] + "\x00end\n"; got.Out != want {
		t.Errorf("got %d bytes, want %d", len(got.Out), len(want))
	}
	if want := front + "meanwhile\nswarm: 7 bytes of task " + task + " were not kept: they came faster than they could be copied\n"; got.ErrOut != want {
		t.Errorf("got %q, want %q", got.ErrOut, want)
	}
	got = clitest.Run{Server: s}.Run(t, "task", "logs", "--raw", task)
	if want := xs + "\x00end"; got.Out != want {
		t.Errorf("raw: got %d bytes, want %d", len(got.Out), len(want))
	}
}

// longestLine is the length at which a line is cut when another task prints.
const longestLine = 1 << 20

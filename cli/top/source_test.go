package top

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	tea "charm.land/bubbletea/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"swarm/cli/command"
	swarmv1 "swarm/proto/swarm/v1"
)

// fakeManager answers each WatchStats with as many rounds as rounds says, and is then lost.
type fakeManager struct {
	swarmv1.ControlClient
	swarmv1.StatsClient
	rounds []int
	logs   []context.Context // the contexts of calls for logs
}

func (f *fakeManager) ListNodes(context.Context, *swarmv1.ListRequest, ...grpc.CallOption) (*swarmv1.ListNodesResponse, error) {
	return &swarmv1.ListNodesResponse{Nodes: []*swarmv1.NodeInfo{{}}}, nil
}

func (f *fakeManager) ListServices(context.Context, *swarmv1.ListRequest, ...grpc.CallOption) (*swarmv1.ListServicesResponse, error) {
	return &swarmv1.ListServicesResponse{}, nil
}

func (f *fakeManager) WatchStats(ctx context.Context, _ *swarmv1.WatchStatsRequest, _ ...grpc.CallOption) (swarmv1.Stats_WatchStatsClient, error) {
	if len(f.rounds) == 0 {
		return &stream[swarmv1.WatchStatsResponse]{ctx: ctx, left: 1 << 30}, nil
	}
	n := f.rounds[0]
	f.rounds = f.rounds[1:]
	return &stream[swarmv1.WatchStatsResponse]{ctx: ctx, left: n, err: status.Error(codes.Unavailable, "the daemon is gone")}, nil
}

func (f *fakeManager) Logs(ctx context.Context, r *swarmv1.LogsRequest, _ ...grpc.CallOption) (swarmv1.Control_LogsClient, error) {
	f.logs = append(f.logs, ctx)
	return &stream[swarmv1.TaskLogsResponse]{ctx: ctx, left: 1, err: io.EOF, answer: &swarmv1.TaskLogsResponse{
		Notices: []string{"node n2 does not answer"}, Records: []*swarmv1.LogRecord{{Data: []byte("log of " + r.GetService())}},
	}}, nil
}

// stream sends answer once a second, left times, and then err.
type stream[T any] struct {
	grpc.ClientStream
	ctx    context.Context
	left   int
	err    error
	answer *T
}

func (s *stream[T]) Recv() (*T, error) {
	if s.left == 0 {
		return nil, s.err
	}
	s.left--
	select {
	case <-time.After(time.Second):
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
	if s.answer != nil {
		return s.answer, nil
	}
	return new(T), nil
}

func newSource(t *testing.T, f *fakeManager) *source {
	t.Helper()
	return &source{deps: &command.Deps{Env: func(string) string { return "" }}, client: command.Client{ControlClient: f, Stats: f}}
}

// The source continues after the manager was lost, and ends with its context.
func TestSource_FollowSurvivesALostManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t, &fakeManager{rounds: []int{2, 0, 0, 1}})
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		s.follow(ctx, func(msg tea.Msg) {
			switch msg := msg.(type) {
			case snapshot:
				got = append(got, "snapshot")
			case lost:
				if !strings.Contains(msg.reason, "the daemon is gone") {
					t.Errorf("lost because of %q", msg.reason)
				}
				got = append(got, "lost")
			}
			if len(got) == 8 {
				cancel()
			}
		})
		if want := []string{"snapshot", "snapshot", "lost", "lost", "lost", "snapshot", "lost", "snapshot"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// A log is read in pieces, and opening another one ends the call before.
func TestSource_Logs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeManager{}
		s := newSource(t, f)
		defer s.close()
		first, ok := s.logs(t.Context(), 1, "web")().(moreLines)
		if want := []string{"node n2 does not answer", "log of web"}; !ok || first.call != 1 || !slices.Equal(first.lines, want) {
			t.Errorf("got %v, want %v", first.lines, want)
		}
		if end, ok := first.next().(logLines); !ok || !end.ended || end.lines[0] != "the log has ended" {
			t.Errorf("got %v, want the end", end)
		}
		s.logs(t.Context(), 2, "db")()
		if f.logs[0].Err() == nil || f.logs[1].Err() != nil {
			t.Error("the first call goes on, or the second one does not")
		}
		if s.logs(t.Context(), 0, "") != nil || f.logs[1].Err() == nil {
			t.Error("the call goes on after the user has left the log")
		}
	})
}

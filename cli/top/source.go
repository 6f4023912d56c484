package top

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"swarm/cli/command"
	"swarm/cli/logs"
	"swarm/cli/stats"
	"swarm/cli/term"
	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// callTimeout limits the calls that list objects.
	callTimeout = 5 * time.Second
	// minPause and maxPause bound the pause between two attempts while the manager is lost.
	minPause = 200 * time.Millisecond
	maxPause = 3 * time.Second
	// firstLines is how many lines of a log are shown at first.
	firstLines = 200
)

// The messages of a source to the model.
type (
	// snapshot is the cluster at one moment.
	snapshot struct {
		stats    *swarmv1.WatchStatsResponse
		loads    map[string]stats.Load
		nodes    []*swarmv1.NodeInfo
		services []*swarmv1.ServiceInfo
	}
	// lost says that the manager does not answer, and why.
	lost struct{ reason string }
	// logLines are further lines of the log that the user looks at. call is the number of the
	// call, so that lines of an earlier one are not shown. If ended is set, no more lines follow.
	logLines struct {
		call  int
		lines []string
		ended bool
	}
)

// source gets what the UI shows from a manager.
type source struct {
	deps   *command.Deps
	client command.Client

	mu   sync.Mutex // guards stop
	stop context.CancelFunc
}

// follow sends snapshots until ctx ends. After an error it sends lost, and tries again.
func (s *source) follow(ctx context.Context, send func(tea.Msg)) {
	rest := minPause
	for {
		came, err := s.stream(ctx, send)
		if ctx.Err() != nil {
			return
		}
		send(lost{reason: term.ErrorLine(s.deps.Explain(err))})
		if came {
			rest = minPause
		}
		if pause.For(ctx, rest/2+rand.N(rest)) != nil {
			return
		}
		rest = min(2*rest, maxPause)
	}
}

// stream sends a snapshot for each round of the manager. came says that at least one was sent.
func (s *source) stream(ctx context.Context, send func(tea.Msg)) (came bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rounds, err := s.client.Stats.WatchStats(ctx, &swarmv1.WatchStatsRequest{All: true})
	if err != nil {
		return false, err
	}
	var rates stats.Rates
	for {
		m, err := rounds.Recv()
		if err != nil {
			return came, err
		}
		snap := snapshot{stats: m, loads: rates.Round(m)}
		if err := s.list(ctx, &snap); err != nil {
			return came, err
		}
		send(snap)
		came = true
	}
}

// list adds the nodes and services to a snapshot.
func (s *source) list(ctx context.Context, snap *snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	nodes, err := s.client.ListNodes(ctx, &swarmv1.ListRequest{})
	if err != nil {
		return err
	}
	services, err := s.client.ListServices(ctx, &swarmv1.ListRequest{})
	snap.nodes, snap.services = nodes.GetNodes(), services.GetServices()
	return err
}

// logs returns a command that begins to read the log of a service or task. It ends the call before.
func (s *source) logs(ctx context.Context, call int, ref string) tea.Cmd {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	if s.stop != nil {
		s.stop()
	}
	s.stop = cancel
	s.mu.Unlock()
	if ref == "" { // The user has left the log.
		cancel()
		return nil
	}
	return func() tea.Msg {
		stream, err := s.client.Logs(ctx, &swarmv1.LogsRequest{Service: ref, Options: &swarmv1.LogOptions{Follow: true, Tail: firstLines}})
		if err != nil {
			return s.ended(call, err)
		}
		return s.next(call, stream)
	}
}

// moreLines is a message with lines, and the command that reads the next ones.
type moreLines struct {
	logLines
	next tea.Cmd
}

func (s *source) next(call int, stream swarmv1.Control_LogsClient) tea.Msg {
	m, err := stream.Recv()
	if err != nil {
		return s.ended(call, err)
	}
	lines := append([]string(nil), m.GetNotices()...)
	if text := logs.Text(m.GetRecords()); text != "" {
		lines = append(lines, strings.Split(strings.TrimSuffix(text, "\n"), "\n")...)
	}
	return moreLines{logLines{call: call, lines: lines}, func() tea.Msg { return s.next(call, stream) }}
}

func (s *source) ended(call int, err error) tea.Msg {
	end := "the log has ended"
	if !errors.Is(err, io.EOF) {
		end = "the log is interrupted: " + term.ErrorLine(s.deps.Explain(err))
	}
	return logLines{call: call, lines: []string{end}, ended: true}
}

// close ends the call for a log.
func (s *source) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop()
	}
}

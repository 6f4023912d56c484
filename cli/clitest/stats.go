package clitest

import (
	"context"

	"google.golang.org/grpc"

	swarmv1 "swarm/proto/swarm/v1"
)

// statsServer sends the rounds of the fake, and then waits until the caller is gone.
type statsServer struct {
	swarmv1.UnimplementedStatsServer
	fake *Server
}

func (s statsServer) WatchStats(r *swarmv1.WatchStatsRequest, stream grpc.ServerStreamingServer[swarmv1.WatchStatsResponse]) error {
	s.fake.mu.Lock()
	s.fake.StatsReq = r
	rounds := s.fake.Rounds
	s.fake.mu.Unlock()
	for _, m := range rounds {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func (s statsServer) GetProcesses(_ context.Context, r *swarmv1.ProcessesRequest) (*swarmv1.ProcessesResponse, error) {
	s.fake.mu.Lock()
	defer s.fake.mu.Unlock()
	if s.fake.Processes.GetTaskId() != r.GetTask() {
		return nil, NotFound("task", r.GetTask())
	}
	return s.fake.Processes, nil
}

package clitest

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"swarm/internal/broadcast"
	"swarm/internal/eventplace"
	"swarm/internal/pause"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
)

// Server is a fake manager. It records requests, and calls its hooks for some of them.
type Server struct {
	swarmv1.UnimplementedControlServer

	mu       sync.Mutex // guards everything below
	Cluster  *swarmv1.Cluster
	Nodes    []*swarmv1.NodeInfo
	Networks []*swarmv1.NetworkInfo
	Volumes  []*swarmv1.VolumeInfo
	Services []*swarmv1.ServiceInfo
	Tasks    []*swarmv1.TaskInfo
	Images   []*swarmv1.ImageInfo
	// Revisions are the earlier revisions of the services.
	Revisions []*swarmv1.Revision
	Usage     []*swarmv1.NodeUsage
	Info      *swarmv1.InfoResponse
	Records   []*swarmv1.LogRecord
	Events    []*swarmv1.Event
	Root      *pki.Root
	// Rounds are the messages of WatchStats.
	Rounds    []*swarmv1.WatchStatsResponse
	StatsReq  *swarmv1.WatchStatsRequest
	Processes *swarmv1.ProcessesResponse

	Credentials []*swarmv1.Credential

	Created    *swarmv1.CreateServiceRequest
	Updates    []*swarmv1.UpdateServiceRequest
	NodeReqs   []*swarmv1.UpdateNodeRequest
	AcceptReqs []*swarmv1.AcceptNodeRequest
	Inits      []*swarmv1.InitRequest
	Joins      []*swarmv1.JoinClusterRequest
	Removed    []string
	VolumeReqs []*swarmv1.CreateVolumeRequest
	Restored   []*swarmv1.RestoreVolumeStart
	Logins     map[string]string // passwords by user
	Loaded     []byte
	LoadReq    *swarmv1.LoadImageRequest
	LogsReq    *swarmv1.LogsRequest
	WatchReq   *swarmv1.WatchRequest
	InitErr    error
	Stale      int // how many updates are refused as out of sequence
	LogDetails []*swarmv1.LogDetails
	LogNotices []string

	changed broadcast.Signal
	// BeforeCreate runs, unlocked, before a service is created, and BeforeRemove before a network
	// is removed, or a node leaves.
	BeforeCreate, BeforeRemove func()
	// Waits are the messages of WaitService. A call ends after a verdict or an error, and the next
	// call continues with the message after that. If Waits is nil, every service has converged.
	Waits   []WaitStep
	WaitReq *swarmv1.WaitServiceRequest
	OnExec  func(stream swarmv1.Control_ExecServer) error
	// OnForward answers PortForward.
	OnForward func(stream swarmv1.Control_PortForwardServer) error
	OnWatch   func(r *swarmv1.WatchRequest, stream swarmv1.Control_WatchServer) error
}

// Change calls a function that edits the state, and wakes the watchers.
func (s *Server) Change(edit func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	edit()
	s.changed.Broadcast()
}

// NotFound returns the error with which a manager answers a request for an unknown object.
func NotFound(kind, id string) error {
	return status.Errorf(codes.NotFound, "%s %s: not found", kind, id)
}

func (s *Server) GetCluster(context.Context, *swarmv1.GetRequest) (*swarmv1.Cluster, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Cluster, nil
}

func (s *Server) UpdateCluster(_ context.Context, r *swarmv1.UpdateClusterRequest) (*swarmv1.Cluster, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Cluster = s.Cluster.CloneVT()
	if r.Spec != nil {
		s.Cluster.Spec = r.Spec
	}
	if r.RotateWorkerToken {
		s.Cluster.RootCa.JoinTokens.Worker = "SWMTKN-rotated"
	}
	return s.Cluster, nil
}

func (s *Server) GetNode(_ context.Context, r *swarmv1.GetRequest) (*swarmv1.NodeInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.Nodes {
		if n.Node.Id == r.Id || n.Node.Hostname == r.Id {
			told := n.CloneVT()
			if n.GetManagerStatus().GetReachability() == swarmv1.ManagerStatus_CATCHING_UP && n.GetState().GetState() != swarmv1.NodeState_DOWN {
				n.ManagerStatus.Reachability = swarmv1.ManagerStatus_REACHABLE // at the next look
			}
			return told, nil
		}
	}
	return nil, NotFound("node", r.Id)
}

func (s *Server) ListNodes(context.Context, *swarmv1.ListRequest) (*swarmv1.ListNodesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &swarmv1.ListNodesResponse{Nodes: s.Nodes}, nil
}

func (s *Server) AcceptNode(_ context.Context, r *swarmv1.AcceptNodeRequest) (*swarmv1.NodeInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.AcceptReqs = append(s.AcceptReqs, r)
	return &swarmv1.NodeInfo{Node: &swarmv1.Node{Id: r.Id}}, nil
}

func (s *Server) UpdateNode(_ context.Context, r *swarmv1.UpdateNodeRequest) (*swarmv1.NodeInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Stale > 0 {
		s.Stale--
		return nil, status.Error(codes.Aborted, "update out of sequence")
	}
	s.NodeReqs = append(s.NodeReqs, r)
	for _, n := range s.Nodes {
		if n.Node.Id == r.Id && r.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER && n.ManagerStatus == nil {
			n.ManagerStatus = &swarmv1.ManagerStatus{Reachability: swarmv1.ManagerStatus_CATCHING_UP}
		}
	}
	return &swarmv1.NodeInfo{Node: &swarmv1.Node{Id: r.Id, Spec: r.Spec}}, nil
}

func (s *Server) RemoveNode(_ context.Context, r *swarmv1.RemoveNodeRequest) (*swarmv1.RemoveResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Removed = append(s.Removed, r.Id)
	return &swarmv1.RemoveResponse{}, nil
}

func (s *Server) GetService(_ context.Context, r *swarmv1.GetRequest) (*swarmv1.ServiceInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.Services {
		if i.Service.Id == r.Id || i.Service.Name == r.Id {
			return i, nil
		}
	}
	return nil, NotFound("service", r.Id)
}

func (s *Server) ListServices(context.Context, *swarmv1.ListRequest) (*swarmv1.ListServicesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &swarmv1.ListServicesResponse{Services: s.Services}, nil
}

func (s *Server) CreateService(_ context.Context, r *swarmv1.CreateServiceRequest) (*swarmv1.CreateServiceResponse, error) {
	if s.BeforeCreate != nil {
		s.BeforeCreate()
	}
	s.mu.Lock()
	s.Created = r
	id := "svc0000000000000000000001"
	s.Services = append(s.Services, &swarmv1.ServiceInfo{
		Service:  &swarmv1.Service{Id: id, Name: r.Spec.Name, Revision: 1, Meta: &swarmv1.Meta{Version: 10}},
		Revision: &swarmv1.Revision{ServiceId: id, Number: 1, Template: 1, Spec: r.Spec},
		Status:   &swarmv1.ServiceStatus{DesiredTasks: r.Spec.GetMode().GetReplicated().GetReplicas()},
	})
	s.mu.Unlock()
	return &swarmv1.CreateServiceResponse{Id: id, Index: 10, Warnings: []string{"be careful"}}, nil
}

func (s *Server) UpdateService(_ context.Context, r *swarmv1.UpdateServiceRequest) (*swarmv1.UpdateServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Stale > 0 {
		s.Stale--
		return nil, status.Error(codes.Aborted, "update out of sequence")
	}
	s.Updates = append(s.Updates, r)
	for i, old := range s.Services {
		if old.Service.Id == r.Id && !r.Rollback {
			next := old.CloneVT()
			next.Service.Revision++
			next.Revision.Spec = r.Spec
			s.Services[i] = next
			return &swarmv1.UpdateServiceResponse{Revision: next.Service.Revision}, nil
		}
	}
	return &swarmv1.UpdateServiceResponse{}, nil
}

func (s *Server) RemoveService(_ context.Context, r *swarmv1.GetRequest) (*swarmv1.RemoveResponse, error) {
	if _, err := s.GetService(context.Background(), r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Removed = append(s.Removed, r.Id)
	return &swarmv1.RemoveResponse{}, nil
}

func (s *Server) ListRevisions(context.Context, *swarmv1.GetRequest) (*swarmv1.ListRevisionsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &swarmv1.ListRevisionsResponse{Revisions: slices.Clone(s.Revisions)}
	for _, i := range s.Services {
		r.Revisions = append(r.Revisions, i.Revision)
	}
	return r, nil
}

func (s *Server) GetTask(_ context.Context, r *swarmv1.GetRequest) (*swarmv1.TaskInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.Tasks {
		if t.Task.Id == r.Id {
			return t, nil
		}
	}
	return nil, NotFound("task", r.Id)
}

func (s *Server) ListTasks(_ context.Context, r *swarmv1.ListRequest) (*swarmv1.ListTasksResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &swarmv1.ListTasksResponse{}
	for _, t := range s.Tasks {
		f := r.GetFilter()
		if len(f.GetServiceIds()) > 0 && !slices.Contains(f.ServiceIds, t.Task.ServiceId) || len(f.GetNodeIds()) > 0 && !slices.Contains(f.NodeIds, t.Task.NodeId) {
			continue
		}
		out.Tasks = append(out.Tasks, t)
	}
	return out, nil
}

func (s *Server) ListImages(context.Context, *swarmv1.ListRequest) (*swarmv1.ListImagesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &swarmv1.ListImagesResponse{Images: s.Images}, nil
}

func (s *Server) LoadImage(stream swarmv1.Control_LoadImageServer) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		if s.LoadReq == nil {
			s.LoadReq = &swarmv1.LoadImageRequest{Size: r.Size, Name: r.Name}
		}
		s.Loaded = append(s.Loaded, r.Data...)
		bad := strings.HasPrefix(string(s.Loaded), "not a tar")
		s.mu.Unlock()
		if bad {
			return status.Error(codes.InvalidArgument, "archive is neither an OCI nor a Docker archive: write one with docker save")
		}
		if err := stream.Send(&swarmv1.ImageProgress{Step: "reading archive", Current: int64(len(s.Loaded))}); err != nil {
			return err
		}
	}
	return stream.Send(&swarmv1.ImageProgress{Step: "done", Image: &swarmv1.Image{Name: "docker.io/library/app:1", Digest: "sha256:abc"}})
}

// WaitStep is one message of WaitService, or the error that ends the call.
type WaitStep struct {
	After    time.Duration
	Progress *swarmv1.ServiceProgress
	Verdict  *swarmv1.ServiceVerdict
	Err      error
}

// WaitService implements swarmv1.ControlServer.
func (s *Server) WaitService(r *swarmv1.WaitServiceRequest, stream swarmv1.Control_WaitServiceServer) error {
	s.mu.Lock()
	s.WaitReq = r
	s.mu.Unlock()
	if s.Waits == nil {
		return stream.Send(&swarmv1.WaitServiceResponse{Progress: &swarmv1.ServiceProgress{ServiceName: "web"}, Verdict: &swarmv1.ServiceVerdict{Converged: true}})
	}
	for len(s.Waits) > 0 {
		w := s.Waits[0]
		if pause.For(stream.Context(), w.After) != nil {
			return stream.Context().Err()
		}
		s.Waits = s.Waits[1:]
		if w.Err != nil {
			return w.Err
		}
		if err := stream.Send(&swarmv1.WaitServiceResponse{Progress: w.Progress, Verdict: w.Verdict}); err != nil || w.Verdict != nil {
			return err
		}
	}
	return nil
}

func (s *Server) Watch(r *swarmv1.WatchRequest, stream swarmv1.Control_WatchServer) error {
	s.mu.Lock()
	s.WatchReq = r
	events := s.Events
	s.mu.Unlock()
	if err := stream.SendHeader(eventplace.Header(1, 0)); err != nil {
		return err
	}
	if s.OnWatch != nil {
		return s.OnWatch(r, stream)
	}
	if events != nil {
		for _, e := range events {
			if err := stream.Send(e); err != nil {
				return err
			}
		}
		return nil
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case <-s.changed.Changed():
		}
		if err := stream.Send(&swarmv1.Event{Type: "task"}); err != nil {
			return err
		}
	}
}

func (s *Server) Logs(r *swarmv1.LogsRequest, stream swarmv1.Control_LogsServer) error {
	s.mu.Lock()
	s.LogsReq = r
	records := s.Records
	s.mu.Unlock()
	return stream.Send(&swarmv1.TaskLogsResponse{Records: records, Details: s.LogDetails, Notices: s.LogNotices})
}

func (s *Server) Exec(stream swarmv1.Control_ExecServer) error { return s.OnExec(stream) }

// PortForward implements swarmv1.ControlServer.
func (s *Server) PortForward(stream swarmv1.Control_PortForwardServer) error {
	return s.OnForward(stream)
}

type daemonServer struct {
	swarmv1.UnimplementedDaemonServer
	fake *Server
}

func (d daemonServer) Init(_ context.Context, r *swarmv1.InitRequest) (*swarmv1.InitResponse, error) {
	d.fake.mu.Lock()
	defer d.fake.mu.Unlock()
	d.fake.Inits = append(d.fake.Inits, r)
	if d.fake.InitErr != nil {
		return nil, d.fake.InitErr
	}
	return &swarmv1.InitResponse{NodeId: "node1", ClusterId: "cluster1", WorkerToken: "SWMTKN-w", Addr: "10.0.0.1:2377"}, nil
}

func (d daemonServer) Join(_ context.Context, r *swarmv1.JoinClusterRequest) (*swarmv1.JoinClusterResponse, error) {
	d.fake.mu.Lock()
	defer d.fake.mu.Unlock()
	d.fake.Joins = append(d.fake.Joins, r)
	return &swarmv1.JoinClusterResponse{NodeId: "node2", Role: swarmv1.NodeSpec_MANAGER}, nil
}

func (d daemonServer) Leave(_ context.Context, r *swarmv1.LeaveRequest) (*swarmv1.LeaveResponse, error) {
	if !r.Force {
		return nil, status.Error(codes.FailedPrecondition, "this node is a manager: demote it first, or leave with --force")
	}
	if d.fake.BeforeRemove != nil {
		d.fake.BeforeRemove()
	}
	return &swarmv1.LeaveResponse{}, nil
}

func (d daemonServer) Info(context.Context, *swarmv1.InfoRequest) (*swarmv1.InfoResponse, error) {
	if d.fake.Info == nil {
		return nil, status.Error(codes.Unimplemented, "no")
	}
	return d.fake.Info, nil
}

type caServer struct {
	swarmv1.UnimplementedCAServer
	fake *Server
}

func (s *Server) GetImage(_ context.Context, r *swarmv1.GetRequest) (*swarmv1.ImageInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.Images {
		if i.Image.Name == "docker.io/library/"+r.Id {
			return i, nil
		}
	}
	return nil, NotFound("image", r.Id)
}

func (s *Server) RemoveImage(ctx context.Context, r *swarmv1.RemoveClusterImageRequest) (*swarmv1.RemoveResponse, error) {
	_, err := s.GetImage(ctx, &swarmv1.GetRequest{Id: r.Id})
	return &swarmv1.RemoveResponse{}, err
}

// disksServer reports the disk usage of the fake's nodes, and cleans them.
type disksServer struct {
	swarmv1.UnimplementedDisksServer
	fake *Server
}

func (s disksServer) Usage(context.Context, *swarmv1.DisksUsageRequest) (*swarmv1.DisksUsageResponse, error) {
	return &swarmv1.DisksUsageResponse{Nodes: s.fake.Usage}, nil
}

package cli_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/keychain"
	"swarm/internal/pause"
	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
)

// fakeServer is a manager that remembers what it was asked and does what its hooks say.
type fakeServer struct {
	swarmv1.UnimplementedControlServer

	mu       sync.Mutex // guards everything below
	cluster  *swarmv1.Cluster
	nodes    []*swarmv1.NodeInfo
	networks []*swarmv1.NetworkInfo
	services []*swarmv1.ServiceInfo
	tasks    []*swarmv1.TaskInfo
	images   []*swarmv1.ImageInfo
	// revisions are those that services had before.
	revisions []*swarmv1.Revision
	usage     []*swarmv1.NodeUsage
	info      *swarmv1.InfoResponse
	logs      []*swarmv1.LogRecord
	events    []*swarmv1.Event
	root      *pki.Root

	credentials []*swarmv1.Credential

	created    *swarmv1.CreateServiceRequest
	updates    []*swarmv1.UpdateServiceRequest
	nodeReqs   []*swarmv1.UpdateNodeRequest
	inits      []*swarmv1.InitRequest
	joins      []*swarmv1.JoinClusterRequest
	removed    []string
	logins     map[string]string // passwords by user
	loaded     []byte
	loadReq    *swarmv1.LoadImageRequest
	logsReq    *swarmv1.LogsRequest
	watchReq   *swarmv1.WatchRequest
	initErr    error
	stale      int // how many updates are refused as out of sequence
	logDetails []*swarmv1.LogDetails
	logNotices []string

	changed chan struct{}
	// beforeCreate runs, unlocked, before a service is created, and beforeRemove before a network is removed, or a node leaves.
	beforeCreate, beforeRemove func()
	// waits are the messages of WaitService. A call ends after a verdict or an error, and the next one
	// goes on behind it. Without any, every service has converged.
	waits   []waitStep
	waitReq *swarmv1.WaitServiceRequest
	exec    func(stream swarmv1.Control_ExecServer) error
}

// change edits the state and wakes watchers.
func (s *fakeServer) change(edit func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	edit()
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

func (s *fakeServer) signal() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

func notFound(kind, id string) error {
	return status.Errorf(codes.NotFound, "%s %s: not found", kind, id)
}

func (s *fakeServer) GetCluster(context.Context, *swarmv1.GetRequest) (*swarmv1.Cluster, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cluster, nil
}

func (s *fakeServer) UpdateCluster(_ context.Context, r *swarmv1.UpdateClusterRequest) (*swarmv1.Cluster, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster = s.cluster.CloneVT()
	if r.Spec != nil {
		s.cluster.Spec = r.Spec
	}
	if r.RotateWorkerToken {
		s.cluster.RootCa.JoinTokens.Worker = "SWMTKN-rotated"
	}
	return s.cluster, nil
}

func (s *fakeServer) GetNode(_ context.Context, r *swarmv1.GetRequest) (*swarmv1.NodeInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		if n.Node.Id == r.Id || n.Node.Hostname == r.Id {
			told := n.CloneVT()
			if n.GetManagerStatus().GetReachability() == swarmv1.ManagerStatus_CATCHING_UP && n.GetState().GetState() != swarmv1.NodeState_DOWN {
				n.ManagerStatus.Reachability = swarmv1.ManagerStatus_REACHABLE // at the next look
			}
			return told, nil
		}
	}
	return nil, notFound("node", r.Id)
}

func (s *fakeServer) ListNodes(context.Context, *swarmv1.ListRequest) (*swarmv1.ListNodesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &swarmv1.ListNodesResponse{Nodes: s.nodes}, nil
}

func (s *fakeServer) UpdateNode(_ context.Context, r *swarmv1.UpdateNodeRequest) (*swarmv1.NodeInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stale > 0 {
		s.stale--
		return nil, status.Error(codes.Aborted, "update out of sequence")
	}
	s.nodeReqs = append(s.nodeReqs, r)
	for _, n := range s.nodes {
		if n.Node.Id == r.Id && r.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER && n.ManagerStatus == nil {
			n.ManagerStatus = &swarmv1.ManagerStatus{Reachability: swarmv1.ManagerStatus_CATCHING_UP}
		}
	}
	return &swarmv1.NodeInfo{Node: &swarmv1.Node{Id: r.Id, Spec: r.Spec}}, nil
}

func (s *fakeServer) RemoveNode(_ context.Context, r *swarmv1.RemoveNodeRequest) (*swarmv1.RemoveResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed = append(s.removed, r.Id)
	return &swarmv1.RemoveResponse{}, nil
}

func (s *fakeServer) GetService(_ context.Context, r *swarmv1.GetRequest) (*swarmv1.ServiceInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.services {
		if i.Service.Id == r.Id || i.Service.Name == r.Id {
			return i, nil
		}
	}
	return nil, notFound("service", r.Id)
}

func (s *fakeServer) ListServices(context.Context, *swarmv1.ListRequest) (*swarmv1.ListServicesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &swarmv1.ListServicesResponse{Services: s.services}, nil
}

func (s *fakeServer) CreateService(_ context.Context, r *swarmv1.CreateServiceRequest) (*swarmv1.CreateServiceResponse, error) {
	if s.beforeCreate != nil {
		s.beforeCreate()
	}
	s.mu.Lock()
	s.created = r
	id := "svc0000000000000000000001"
	s.services = append(s.services, &swarmv1.ServiceInfo{
		Service:  &swarmv1.Service{Id: id, Name: r.Spec.Name, Revision: 1, Meta: &swarmv1.Meta{Version: 10}},
		Revision: &swarmv1.Revision{ServiceId: id, Number: 1, Template: 1, Spec: r.Spec},
		Status:   &swarmv1.ServiceStatus{DesiredTasks: r.Spec.GetMode().GetReplicated().GetReplicas()},
	})
	s.mu.Unlock()
	return &swarmv1.CreateServiceResponse{Id: id, Index: 10, Warnings: []string{"be careful"}}, nil
}

func (s *fakeServer) UpdateService(_ context.Context, r *swarmv1.UpdateServiceRequest) (*swarmv1.UpdateServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stale > 0 {
		s.stale--
		return nil, status.Error(codes.Aborted, "update out of sequence")
	}
	s.updates = append(s.updates, r)
	for i, old := range s.services {
		if old.Service.Id == r.Id && !r.Rollback {
			next := old.CloneVT()
			next.Service.Revision++
			next.Revision.Spec = r.Spec
			s.services[i] = next
			return &swarmv1.UpdateServiceResponse{Revision: next.Service.Revision}, nil
		}
	}
	return &swarmv1.UpdateServiceResponse{}, nil
}

func (s *fakeServer) RemoveService(_ context.Context, r *swarmv1.GetRequest) (*swarmv1.RemoveResponse, error) {
	if _, err := s.GetService(context.Background(), r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed = append(s.removed, r.Id)
	return &swarmv1.RemoveResponse{}, nil
}

func (s *fakeServer) ListRevisions(context.Context, *swarmv1.GetRequest) (*swarmv1.ListRevisionsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &swarmv1.ListRevisionsResponse{Revisions: slices.Clone(s.revisions)}
	for _, i := range s.services {
		r.Revisions = append(r.Revisions, i.Revision)
	}
	return r, nil
}

func (s *fakeServer) GetTask(_ context.Context, r *swarmv1.GetRequest) (*swarmv1.TaskInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tasks {
		if t.Task.Id == r.Id {
			return t, nil
		}
	}
	return nil, notFound("task", r.Id)
}

func (s *fakeServer) ListTasks(_ context.Context, r *swarmv1.ListRequest) (*swarmv1.ListTasksResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &swarmv1.ListTasksResponse{}
	for _, t := range s.tasks {
		f := r.GetFilter()
		if len(f.GetServiceIds()) > 0 && !slices.Contains(f.ServiceIds, t.Task.ServiceId) || len(f.GetNodeIds()) > 0 && !slices.Contains(f.NodeIds, t.Task.NodeId) {
			continue
		}
		out.Tasks = append(out.Tasks, t)
	}
	return out, nil
}

func (s *fakeServer) ListImages(context.Context, *swarmv1.ListRequest) (*swarmv1.ListImagesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &swarmv1.ListImagesResponse{Images: s.images}, nil
}

func (s *fakeServer) LoadImage(stream swarmv1.Control_LoadImageServer) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		if s.loadReq == nil {
			s.loadReq = &swarmv1.LoadImageRequest{Size: r.Size, Name: r.Name}
		}
		s.loaded = append(s.loaded, r.Data...)
		bad := strings.HasPrefix(string(s.loaded), "not a tar")
		s.mu.Unlock()
		if bad {
			return status.Error(codes.InvalidArgument, "archive is neither an OCI nor a Docker archive: write one with docker save")
		}
		if err := stream.Send(&swarmv1.ImageProgress{Step: "reading archive", Current: int64(len(s.loaded))}); err != nil {
			return err
		}
	}
	return stream.Send(&swarmv1.ImageProgress{Step: "done", Image: &swarmv1.Image{Name: "docker.io/library/app:1", Digest: "sha256:abc"}})
}

func (s *fakeServer) WaitService(r *swarmv1.WaitServiceRequest, stream swarmv1.Control_WaitServiceServer) error {
	s.mu.Lock()
	s.waitReq = r
	s.mu.Unlock()
	if s.waits == nil {
		return stream.Send(&swarmv1.WaitServiceResponse{Progress: &swarmv1.ServiceProgress{ServiceName: "web"}, Verdict: &swarmv1.ServiceVerdict{Converged: true}})
	}
	for len(s.waits) > 0 {
		w := s.waits[0]
		if pause.For(stream.Context(), w.after) != nil {
			return stream.Context().Err()
		}
		s.waits = s.waits[1:]
		if w.err != nil {
			return w.err
		}
		if err := stream.Send(&swarmv1.WaitServiceResponse{Progress: w.progress, Verdict: w.verdict}); err != nil || w.verdict != nil {
			return err
		}
	}
	return nil
}

func (s *fakeServer) Watch(r *swarmv1.WatchRequest, stream swarmv1.Control_WatchServer) error {
	s.mu.Lock()
	s.watchReq = r
	events := s.events
	s.mu.Unlock()
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
		case <-s.signal():
		}
		if err := stream.Send(&swarmv1.Event{Type: "task"}); err != nil {
			return err
		}
	}
}

func (s *fakeServer) Logs(r *swarmv1.LogsRequest, stream swarmv1.Control_LogsServer) error {
	s.mu.Lock()
	s.logsReq = r
	records := s.logs
	s.mu.Unlock()
	return stream.Send(&swarmv1.TaskLogsResponse{Records: records, Details: s.logDetails, Notices: s.logNotices})
}

func (s *fakeServer) Exec(stream swarmv1.Control_ExecServer) error { return s.exec(stream) }

type daemonServer struct {
	swarmv1.UnimplementedDaemonServer
	fake *fakeServer
}

func (d daemonServer) Init(_ context.Context, r *swarmv1.InitRequest) (*swarmv1.InitResponse, error) {
	d.fake.mu.Lock()
	defer d.fake.mu.Unlock()
	d.fake.inits = append(d.fake.inits, r)
	if d.fake.initErr != nil {
		return nil, d.fake.initErr
	}
	return &swarmv1.InitResponse{NodeId: "node1", ClusterId: "cluster1", WorkerToken: "SWMTKN-w", Addr: "10.0.0.1:2377"}, nil
}

func (d daemonServer) Join(_ context.Context, r *swarmv1.JoinClusterRequest) (*swarmv1.JoinClusterResponse, error) {
	d.fake.mu.Lock()
	defer d.fake.mu.Unlock()
	d.fake.joins = append(d.fake.joins, r)
	return &swarmv1.JoinClusterResponse{NodeId: "node2", Role: swarmv1.NodeSpec_MANAGER}, nil
}

func (d daemonServer) Leave(_ context.Context, r *swarmv1.LeaveRequest) (*swarmv1.LeaveResponse, error) {
	if !r.Force {
		return nil, status.Error(codes.FailedPrecondition, "this node is a manager: demote it first, or leave with --force")
	}
	if d.fake.beforeRemove != nil {
		d.fake.beforeRemove()
	}
	return &swarmv1.LeaveResponse{}, nil
}

func (d daemonServer) Info(context.Context, *swarmv1.InfoRequest) (*swarmv1.InfoResponse, error) {
	if d.fake.info == nil {
		return nil, status.Error(codes.Unimplemented, "no")
	}
	return d.fake.info, nil
}

type caServer struct {
	swarmv1.UnimplementedCAServer
	fake *fakeServer
}

func (c caServer) CreateCredential(_ context.Context, r *swarmv1.CreateCredentialRequest) (*swarmv1.CreateCredentialResponse, error) {
	cert, err := c.fake.root.SignUser(r.Csr, r.Name, time.Hour, time.Now())
	if err != nil {
		return nil, err
	}
	return &swarmv1.CreateCredentialResponse{
		Certificate: pki.EncodeCert(cert), Bundle: c.fake.root.CertPEM(),
		Managers: []*swarmv1.Peer{{NodeId: "node1", Addr: "10.0.0.1", Port: 2377}},
	}, nil
}

func (s *fakeServer) ListCredentials(_ context.Context, r *swarmv1.ListRequest) (*swarmv1.ListCredentialsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &swarmv1.ListCredentialsResponse{}
	for _, c := range s.credentials {
		begins := func(text string, prefixes []string) bool {
			return len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(text, p) })
		}
		if f := r.GetFilter(); begins(c.GetId(), f.GetIdPrefixes()) && begins(c.GetName(), f.GetNamePrefixes()) {
			out.Credentials = append(out.Credentials, c)
		}
	}
	return out, nil
}

func (s *fakeServer) RemoveCredential(_ context.Context, r *swarmv1.GetRequest) (*swarmv1.RemoveCredentialResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &swarmv1.RemoveCredentialResponse{}
	for _, c := range s.credentials {
		if c.GetName() == r.GetId() {
			out.Removed = append(out.Removed, c)
		}
	}
	if len(out.Removed) == 0 {
		return nil, status.Error(codes.NotFound, "credential "+r.GetId()+" not found")
	}
	for _, c := range s.credentials {
		if c.GetIssuerId() == out.Removed[0].GetId() {
			out.Issued = append(out.Issued, c)
		}
	}
	return out, nil
}

// task is a task of service web in a state.
func task(id string, slot uint64, state swarmv1.TaskState, age time.Duration, now time.Time) *swarmv1.TaskInfo {
	desired := swarmv1.TaskState_RUNNING
	if state > swarmv1.TaskState_RUNNING {
		desired = swarmv1.TaskState_SHUTDOWN
	}
	return &swarmv1.TaskInfo{
		Task: &swarmv1.Task{
			Id: id, ServiceId: "svc0000000000000000000001", Slot: slot, Revision: 1, NodeId: "node2", DesiredState: desired,
			Meta: &swarmv1.Meta{CreatedAt: timestamppb.New(now.Add(-age))},
		},
		Status:      &swarmv1.TaskStatus{TaskId: id, State: state, Timestamp: timestamppb.New(now.Add(-age))},
		ServiceName: "web", NodeName: "host2", Image: "docker.io/library/redis:7@sha256:0123456789012345678901234567890123456789012345678901234567890123",
	}
}

func testRoot(t *testing.T) *pki.Root {
	t.Helper()
	root, err := pki.CreateRoot("cluster1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func (s *fakeServer) Login(_ context.Context, r *swarmv1.LoginRequest) (*swarmv1.LoginResponse, error) {
	data, err := base64.URLEncoding.DecodeString(r.RegistryAuth)
	var c keychain.Credentials
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if password, ok := s.logins[c.Username]; !ok || password != c.Password || strings.Contains(r.Server, "/") {
		return nil, status.Errorf(codes.Unauthenticated, "registry %s does not take this user name and password", r.Server)
	}
	return &swarmv1.LoginResponse{}, nil
}

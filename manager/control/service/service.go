package service

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/ident"
	"swarm/internal/spec"
	"swarm/manager/control/address"
	"swarm/manager/control/crud"
	"swarm/manager/control/digest"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// Deps are what a Server needs.
type Deps struct {
	Log     *slog.Logger
	Store   *raftstore.Store
	Writer  *crud.Writer
	Digests *digest.Finder
	// LastLogs returns the last lines of a task's log, or nothing if its node does not send them in
	// time.
	LastLogs func(ctx context.Context, taskID string) []*swarmv1.LogRecord
	// StaleNotice returns one line for users that says why this manager's answers may be old.
	StaleNotice func() string
}

// Server serves the RPCs of services.
type Server struct {
	log     *slog.Logger
	store   *raftstore.Store
	writer  *crud.Writer
	digests *digest.Finder
	// addresses allocates virtual IPs.
	addresses   address.Allocator
	lastLogs    func(ctx context.Context, taskID string) []*swarmv1.LogRecord
	staleNotice func() string
}

// New makes a Server.
func New(deps Deps) *Server {
	return &Server{
		log: deps.Log, store: deps.Store, writer: deps.Writer, digests: deps.Digests, lastLogs: deps.LastLogs, staleNotice: deps.StaleNotice,
	}
}

// CreateService writes a service with its first revision, its endpoint, and the claims of its ports
// and addresses, as one group.
func (s *Server) CreateService(ctx context.Context, req *swarmv1.CreateServiceRequest) (*swarmv1.CreateServiceResponse, error) {
	wanted, err := spec.Service(req.GetSpec())
	if err != nil {
		return nil, err
	}
	if err := spec.CheckMessage(req.GetMessage()); err != nil {
		return nil, err
	}
	// Refuse a taken name before pin asks a registry. If the service that has the name is being
	// removed, the error is a PendingRemoval and no ErrAlreadyExists: Create waits for the removal.
	if err := object.Services().CheckNameFree(s.store.View(), wanted.GetName()); errdefs.IsAlreadyExists(err) {
		return nil, err
	}
	warnings, err := s.pin(ctx, wanted, req.GetRegistryAuth(), req.GetNoResolveImage())
	if err != nil {
		return nil, err
	}
	id := ident.NewID()
	index, err := object.Services().Create(ctx, s.writer, wanted.GetName(), func(v *table.View) (*swarmv1.Service, []*swarmv1.Change, error) {
		return s.newService(v, id, wanted.CloneVT(), spec.Author{Actor: crud.Actor(ctx), Message: req.GetMessage()})
	})
	if err != nil {
		return nil, err
	}
	warnings = append(warnings, ingressRoom(s.store.View(), wanted.GetEndpointSpec().GetPorts())...)
	if advice := spec.AdviseSingleWriter(wanted); advice != "" {
		warnings = append(warnings, advice)
	}
	return &swarmv1.CreateServiceResponse{Id: id, Warnings: warnings, Index: index}, nil
}

// newService makes the row of a service, and the changes of the other rows that belong to it. It
// replaces the names in sp by ids.
func (s *Server) newService(v *table.View, id string, sp *swarmv1.ServiceSpec, by spec.Author) (*swarmv1.Service, []*swarmv1.Change, error) {
	if err := bind(v, sp); err != nil {
		return nil, nil, err
	}
	ports, claims, err := claimPorts(v, id, nil, sp.GetEndpointSpec().GetPorts())
	if err != nil {
		return nil, nil, err
	}
	rev := spec.NextRevision(id, nil, 0, sp, by)
	svc := &swarmv1.Service{Id: id, Name: sp.GetName(), Revision: rev.GetNumber()}
	if spec.IsJob(sp.GetMode()) {
		svc.JobStatus = &swarmv1.JobStatus{}
		if !spec.IsScheduled(sp) {
			svc.JobStatus.LastExecution = timestamppb.Now()
		}
	}
	vips, addresses, err := s.virtualIPs(v, id, nil, sp)
	if err != nil {
		return nil, nil, err
	}
	networks, err := joinNetworks(v, id, sp)
	if err != nil {
		return nil, nil, err
	}
	end := &swarmv1.Endpoint{ServiceId: id, Spec: sp.GetEndpointSpec(), Ports: ports, VirtualIps: vips}
	return svc, append(slices.Concat(claims, addresses, networks, holdData(v, id, sp)), table.Create(rev), table.Create(end)), nil
}

// UpdateService writes a new revision of a service, or returns to the previous one if the request
// asks for a rollback. It writes nothing if the new spec equals the current one.
func (s *Server) UpdateService(ctx context.Context, req *swarmv1.UpdateServiceRequest) (*swarmv1.UpdateServiceResponse, error) {
	svc, err := object.Services().Find(s.store.View(), req.GetId())
	if err != nil {
		return nil, err
	}
	if err := spec.CheckMessage(req.GetMessage()); err != nil {
		return nil, err
	}
	if req.GetRollback() {
		return s.rollback(ctx, svc, req)
	}
	current, _ := s.store.View().Revision(svc.GetId(), svc.GetRevision())
	wanted, warnings, err := s.nextSpec(ctx, svc, current.GetSpec(), req)
	if err != nil {
		return nil, err
	}
	var number uint64
	index, err := object.Services().Update(ctx, s.writer, svc, req.GetVersion(), func(v *table.View, row *swarmv1.Service) ([]*swarmv1.Change, error) {
		complete := wanted.CloneVT()
		if err := bind(v, complete); err != nil {
			return nil, err
		}
		changes, err := s.revise(v, row, complete, spec.Author{Actor: crud.Actor(ctx), Message: req.GetMessage()})
		number = row.GetRevision()
		return changes, err
	})
	if err != nil {
		return nil, fmt.Errorf("update service %s: %w", svc.GetName(), err)
	}
	warnings = append(warnings, ingressRoom(s.store.View(), wanted.GetEndpointSpec().GetPorts())...)
	return &swarmv1.UpdateServiceResponse{Warnings: warnings, Index: index, Revision: number}, nil
}

// nextSpec returns the spec that an update writes, with its image pinned. It does not replace names
// by ids: bind does, from the newest view.
func (s *Server) nextSpec(ctx context.Context, svc *swarmv1.Service, old *swarmv1.ServiceSpec, req *swarmv1.UpdateServiceRequest) (*swarmv1.ServiceSpec, []string, error) {
	wanted, err := spec.Service(req.GetSpec())
	if err != nil {
		return nil, nil, err
	}
	if wanted.GetName() != svc.GetName() {
		return nil, nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("service %s cannot be renamed to %s: create a new service instead", svc.GetName(), wanted.GetName()))
	}
	if object.Mode(wanted) != object.Mode(old) {
		return nil, nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("service %s is %s and cannot become %s: create a new service instead", svc.GetName(), object.Mode(old), object.Mode(wanted)))
	}
	if req.GetNoResolveImage() {
		keepDigest(old, wanted)
	}
	keepPullOptions(old, wanted)
	warnings, err := s.pin(ctx, wanted, req.GetRegistryAuth(), req.GetNoResolveImage())
	return wanted, warnings, err
}

// keepDigest gives the image of next the digest that it has in the old spec, if next names the same
// image without a digest. A client sends this for `swarm service update --no-resolve-image --image
// NAME`. Without keepDigest, pin would choose the digest that the cluster has under the name now,
// and the update would replace all tasks if that is another digest. A forced update replaces all
// tasks in any case, so it takes the digest of pin.
func keepDigest(old, next *swarmv1.ServiceSpec) {
	had := old.GetTaskTemplate().GetContainerSpec().GetImage()
	parsed, err := spec.ParseImage(had)
	sameName := err == nil && parsed.Name == next.GetTaskTemplate().GetContainerSpec().GetImage()
	forced := next.GetTaskTemplate().GetForceUpdate() != old.GetTaskTemplate().GetForceUpdate()
	if sameName && parsed.Digest != "" && !forced {
		next.TaskTemplate.ContainerSpec.Image = had
	}
}

// keepPullOptions copies the credentials for the registry from the old spec to next if next has
// none. A client never sees the credentials, so it cannot send them back. If the image of next is
// in another registry, next does not get them.
func keepPullOptions(old, next *swarmv1.ServiceSpec) {
	to, from := next.GetTaskTemplate().GetContainerSpec(), old.GetTaskTemplate().GetContainerSpec()
	if to == nil || to.PullOptions != nil || from.GetPullOptions() == nil {
		return
	}
	was, err := spec.ParseImage(from.GetImage())
	if is, ierr := spec.ParseImage(to.GetImage()); err == nil && ierr == nil && is.Registry() == was.Registry() {
		to.PullOptions = from.PullOptions.CloneVT()
	}
}

// revise makes next the current revision of a service, unless the current revision has the same
// spec. It edits the row, and returns the changes of the other rows.
func (s *Server) revise(v *table.View, row *swarmv1.Service, next *swarmv1.ServiceSpec, by spec.Author) ([]*swarmv1.Change, error) {
	current, _ := v.Revision(row.GetId(), row.GetRevision())
	if current.GetSpec().EqualVT(next) {
		return nil, nil
	}
	rev := nextRevision(v, row.GetId(), current, next, by)
	row.Revision, row.PreviousRevision, row.UpdateStatus = rev.GetNumber(), row.GetRevision(), nil
	if spec.IsJob(next.GetMode()) && !spec.IsScheduled(next) && rev.GetTemplate() != current.GetTemplate() {
		row.JobStatus = &swarmv1.JobStatus{JobIteration: row.GetJobStatus().GetJobIteration() + 1, LastExecution: timestamppb.Now()}
	}
	changes, err := s.updateEndpoint(v, row.GetId(), next)
	return append(slices.Concat(changes, holdData(v, row.GetId(), next)), table.Create(rev)), err
}

// nextRevision makes the revision after current. If an older revision makes the same tasks, the new
// one gets the template of the first such revision. The planner keeps tasks of the same template,
// so an update that undoes another one replaces only the tasks that the other one had replaced.
func nextRevision(v *table.View, id string, current *swarmv1.Revision, next *swarmv1.ServiceSpec, by spec.Author) *swarmv1.Revision {
	var last, template uint64
	for r := range v.RevisionsOf(id) {
		last = max(last, r.GetNumber())
		if template == 0 && spec.SameTasks(r.GetSpec(), next) {
			template = r.GetTemplate()
		}
	}
	rev := spec.NextRevision(id, current, last, next, by)
	if template != 0 {
		rev.Template = template
	}
	return rev
}

// updateEndpoint returns the changes after which the endpoint of a service, and the claims of its
// ports and addresses, are those of the spec.
func (s *Server) updateEndpoint(v *table.View, id string, next *swarmv1.ServiceSpec) ([]*swarmv1.Change, error) {
	old, ok := v.Endpoints.Get(id)
	ports, changes, err := claimPorts(v, id, old.GetPorts(), next.GetEndpointSpec().GetPorts())
	if err != nil {
		return nil, err
	}
	vips, addresses, err := s.virtualIPs(v, id, old.GetVirtualIps(), next)
	if err != nil {
		return nil, err
	}
	networks, err := joinNetworks(v, id, next)
	if err != nil {
		return nil, err
	}
	changes = slices.Concat(changes, addresses, networks)
	if !ok {
		return append(changes, table.Create(&swarmv1.Endpoint{ServiceId: id, Spec: next.GetEndpointSpec(), Ports: ports, VirtualIps: vips})), nil
	}
	row := old.CloneVT()
	row.Spec, row.Ports, row.VirtualIps, row.Unmet = next.GetEndpointSpec(), ports, vips, ""
	if row.EqualVT(old) {
		return changes, nil
	}
	return append(changes, table.Update(row)), nil
}

// rollback exchanges the current and the previous revision of a service.
func (s *Server) rollback(ctx context.Context, svc *swarmv1.Service, req *swarmv1.UpdateServiceRequest) (*swarmv1.UpdateServiceResponse, error) {
	var number uint64
	index, err := object.Services().Update(ctx, s.writer, svc, req.GetVersion(), func(v *table.View, row *swarmv1.Service) ([]*swarmv1.Change, error) {
		previous, ok := v.Revision(row.GetId(), row.GetPreviousRevision())
		if !ok {
			return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("service %s has no previous revision to return to: it was never updated", row.GetName()))
		}
		if err := bind(v, previous.GetSpec().CloneVT()); err != nil {
			return nil, err
		}
		number = previous.GetNumber()
		row.Revision, row.PreviousRevision = number, row.GetRevision()
		row.UpdateStatus = &swarmv1.UpdateStatus{
			State: swarmv1.UpdateStatus_ROLLBACK_STARTED, StartedAt: timestamppb.Now(), StartedVersion: row.GetMeta().GetVersion(),
			Message: rollbackMessage(crud.Actor(ctx), req.GetMessage()),
		}
		changes, err := s.updateEndpoint(v, row.GetId(), previous.GetSpec())
		return append(changes, holdData(v, row.GetId(), previous.GetSpec())...), err
	})
	if err != nil {
		return nil, fmt.Errorf("roll back service %s: %w", svc.GetId(), err)
	}
	return &swarmv1.UpdateServiceResponse{Index: index, Revision: number}, nil
}

func rollbackMessage(actor, message string) string {
	text := "rollback asked for by " + actor
	if message != "" {
		text += ": " + message
	}
	return text
}

// RemoveService marks a service for removal. The planner stops its tasks, and then deletes its
// rows. A service that does not exist any more, or is marked already, is no error.
func (s *Server) RemoveService(ctx context.Context, req *swarmv1.GetRequest) (*swarmv1.RemoveResponse, error) {
	svc, err := object.Services().Find(s.store.View(), req.GetId())
	if err != nil {
		return nil, err
	}
	if err := object.Services().Remove(ctx, s.writer, svc, nil); err != nil {
		return nil, fmt.Errorf("remove service %s: %w", svc.GetName(), err)
	}
	return &swarmv1.RemoveResponse{}, nil
}

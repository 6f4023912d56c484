package control

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/ident"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// CreateService writes a service with its first revision, its endpoint and the claims of its ports and addresses, as one
// group.
func (s *Server) CreateService(ctx context.Context, req *swarmv1.CreateServiceRequest) (*swarmv1.CreateServiceResponse, error) {
	wanted, err := spec.Service(req.GetSpec())
	if err != nil {
		return nil, err
	}
	if err := nameFree(s.store.View(), wanted.GetName()); errdefs.IsAlreadyExists(err) {
		return nil, err // before a registry is asked
	}
	warnings, err := s.pin(ctx, wanted, req.GetRegistryAuth(), req.GetNoResolveImage())
	if err != nil {
		return nil, err
	}
	id := ident.NewID()
	index, err := s.write(ctx, 0, func(v *raftstore.View) ([]*swarmv1.Change, error) {
		if err := nameFree(v, wanted.GetName()); err != nil {
			return nil, err
		}
		complete := wanted.CloneVT()
		if err := bind(v, complete); err != nil {
			return nil, err
		}
		ports, claims, err := claimPorts(v, id, nil, complete.GetEndpointSpec().GetPorts())
		if err != nil {
			return nil, err
		}
		rev := spec.NextRevision(id, nil, 0, complete, actor(ctx))
		svc := &swarmv1.Service{Id: id, Name: complete.GetName(), Revision: rev.GetNumber()}
		if isJob(complete) {
			svc.JobStatus = &swarmv1.JobStatus{LastExecution: timestamppb.Now()}
		}
		vips, addresses, err := s.virtualIPs(v, id, nil, complete)
		if err != nil {
			return nil, err
		}
		networks, err := joinNetworks(v, id, complete)
		if err != nil {
			return nil, err
		}
		end := &swarmv1.Endpoint{ServiceId: id, Spec: complete.GetEndpointSpec(), Ports: ports, VirtualIps: vips}
		return append(slices.Concat(claims, addresses, networks), raftstore.Create(svc), raftstore.Create(rev), raftstore.Create(end)), nil
	})
	if err != nil {
		return nil, fmt.Errorf("create service %s: %w", wanted.GetName(), err)
	}
	s.log.Info("service created", "service", id, "name", wanted.GetName(), "actor", actor(ctx))
	warnings = append(warnings, meshRoom(s.store.View(), wanted.GetEndpointSpec().GetPorts())...)
	if advice := spec.AdviseSingleWriter(wanted); advice != "" {
		warnings = append(warnings, advice)
	}
	return &swarmv1.CreateServiceResponse{Id: id, Warnings: warnings, Index: index}, nil
}

// nameFree refuses a name that a service has, in this or another spelling.
func nameFree(v *raftstore.View, name string) error {
	svc, taken := v.ServiceByName(name)
	switch {
	case !taken:
		return nil
	case svc.GetPendingDelete():
		return leaving{fmt.Sprintf("service %s is still being removed: try again when its tasks have stopped (`swarm service ps %s`)", svc.GetName(), svc.GetId()), []string{svc.GetId()}}
	}
	const remedy = ", or change that one with `swarm service update`"
	if svc.GetName() != name {
		return sameButForCase("service", name, svc.GetName(), svc.GetId(), remedy)
	}
	return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("service name %s is already taken by service %s: choose another name%s", name, svc.GetId(), remedy))
}

// sameButForCase refuses a name that differs only in case from that of another object. remedy says
// what the user can do besides choosing another name.
func sameButForCase(kind, name, other, id, remedy string) error {
	return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf(
		"%s name %s differs only in case from that of %s %s (%s), and DNS knows no case: choose another name%s", kind, name, kind, other, id, remedy))
}

func isJob(s *swarmv1.ServiceSpec) bool {
	return s.GetMode().GetReplicatedJob() != nil || s.GetMode().GetGlobalJob() != nil
}

// UpdateService writes a new revision, or returns to the previous one.
func (s *Server) UpdateService(ctx context.Context, req *swarmv1.UpdateServiceRequest) (*swarmv1.UpdateServiceResponse, error) {
	svc, err := findService(s.store.View(), req.GetId())
	if err != nil {
		return nil, err
	}
	if req.GetRollback() {
		return s.rollback(ctx, svc.GetId(), req.GetVersion())
	}
	current, _ := s.store.View().Revision(svc.GetId(), svc.GetRevision())
	wanted, warnings, err := s.nextSpec(ctx, svc, current.GetSpec(), req)
	if err != nil {
		return nil, err
	}
	var number uint64
	index, err := s.write(ctx, req.GetVersion(), func(v *raftstore.View) ([]*swarmv1.Change, error) {
		row, err := updatable(v, svc.GetId(), req.GetVersion())
		if err != nil {
			return nil, err
		}
		complete := wanted.CloneVT()
		if err := bind(v, complete); err != nil {
			return nil, err
		}
		var changes []*swarmv1.Change
		changes, number, err = s.revise(v, row, complete, actor(ctx))
		return changes, err
	})
	if err != nil {
		return nil, fmt.Errorf("update service %s: %w", svc.GetName(), err)
	}
	warnings = append(warnings, meshRoom(s.store.View(), wanted.GetEndpointSpec().GetPorts())...)
	return &swarmv1.UpdateServiceResponse{Warnings: warnings, Index: index, Revision: number}, nil
}

// nextSpec is the spec to be written but for what depends on the newest view.
func (s *Server) nextSpec(ctx context.Context, svc *swarmv1.Service, old *swarmv1.ServiceSpec, req *swarmv1.UpdateServiceRequest) (*swarmv1.ServiceSpec, []string, error) {
	wanted, err := spec.Service(req.GetSpec())
	if err != nil {
		return nil, nil, err
	}
	if wanted.GetName() != svc.GetName() {
		return nil, nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("service %s cannot be renamed to %s: create a new service instead", svc.GetName(), wanted.GetName()))
	}
	if modeName(wanted) != modeName(old) {
		return nil, nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("service %s is %s and cannot become %s: create a new service instead", svc.GetName(), modeName(old), modeName(wanted)))
	}
	// What runs by a pinned image keeps it unless another image is asked for: scaling asks no registry.
	had := old.GetTaskTemplate().GetContainerSpec().GetImage()
	if parsed, err := spec.ParseImage(had); err == nil && parsed.Name == wanted.GetTaskTemplate().GetContainerSpec().GetImage() &&
		parsed.Digest != "" && wanted.GetTaskTemplate().GetForceUpdate() == old.GetTaskTemplate().GetForceUpdate() && req.GetNoResolveImage() {
		wanted.TaskTemplate.ContainerSpec.Image = had
	}
	keepPullOptions(old, wanted)
	warnings, err := s.pin(ctx, wanted, req.GetRegistryAuth(), req.GetNoResolveImage())
	return wanted, warnings, err
}

// keepPullOptions: nobody is shown the credentials that nodes pull with, so an update that brings none means the old ones.
// They are for the registry of the old image, and no other gets to see them.
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

func updatable(v *raftstore.View, id string, version uint64) (*swarmv1.Service, error) {
	row, ok := v.Services.Get(id)
	switch {
	case !ok || row.GetPendingDelete():
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("service %s was removed meanwhile", id))
	}
	return row, checkVersion("service", row.GetName(), version, row.GetMeta().GetVersion())
}

// revise makes the rows of a new revision; none when nothing differs.
func (s *Server) revise(v *raftstore.View, svc *swarmv1.Service, next *swarmv1.ServiceSpec, who string) ([]*swarmv1.Change, uint64, error) {
	current, _ := v.Revision(svc.GetId(), svc.GetRevision())
	if current.GetSpec().EqualVT(next) {
		return nil, svc.GetRevision(), nil
	}
	rev := nextRevision(v, svc.GetId(), current, next, who)
	row := svc.CloneVT()
	row.Revision, row.PreviousRevision, row.UpdateStatus = rev.GetNumber(), svc.GetRevision(), nil
	if isJob(next) && rev.GetTemplate() != current.GetTemplate() {
		row.JobStatus = &swarmv1.JobStatus{JobIteration: svc.GetJobStatus().GetJobIteration() + 1, LastExecution: timestamppb.Now()}
	}
	changes, err := s.reendpoint(v, svc.GetId(), next)
	if err != nil {
		return nil, 0, err
	}
	return append(changes, raftstore.Update(row), raftstore.Create(rev)), rev.GetNumber(), nil
}

// nextRevision gives the revision the template of the first one that makes the same tasks: a change that is taken back
// replaces only what it had replaced.
func nextRevision(v *raftstore.View, id string, current *swarmv1.Revision, next *swarmv1.ServiceSpec, who string) *swarmv1.Revision {
	var last, template uint64
	for r := range v.Revisions.Prefix(id + "/") {
		last = max(last, r.GetNumber())
		if template == 0 && spec.SameTasks(r.GetSpec(), next) {
			template = r.GetTemplate()
		}
	}
	rev := spec.NextRevision(id, current, last, next, who)
	if template != 0 {
		rev.Template = template
	}
	return rev
}

// reendpoint changes the endpoint and the claims of ports and addresses to what the spec asks for.
func (s *Server) reendpoint(v *raftstore.View, id string, next *swarmv1.ServiceSpec) ([]*swarmv1.Change, error) {
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
		return append(changes, raftstore.Create(&swarmv1.Endpoint{ServiceId: id, Spec: next.GetEndpointSpec(), Ports: ports, VirtualIps: vips})), nil
	}
	row := old.CloneVT()
	row.Spec, row.Ports, row.VirtualIps, row.Unmet = next.GetEndpointSpec(), ports, vips, ""
	if row.EqualVT(old) {
		return changes, nil
	}
	return append(changes, raftstore.Update(row)), nil
}

// rollback makes the previous revision current again, and this one the previous.
func (s *Server) rollback(ctx context.Context, id string, version uint64) (*swarmv1.UpdateServiceResponse, error) {
	var number uint64
	index, err := s.write(ctx, version, func(v *raftstore.View) ([]*swarmv1.Change, error) {
		svc, err := updatable(v, id, version)
		if err != nil {
			return nil, err
		}
		previous, ok := v.Revision(id, svc.GetPreviousRevision())
		if !ok {
			return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("service %s has no previous revision to return to: it was never updated", svc.GetName()))
		}
		row := svc.CloneVT()
		number = previous.GetNumber()
		row.Revision, row.PreviousRevision = number, svc.GetRevision()
		row.UpdateStatus = &swarmv1.UpdateStatus{
			State: swarmv1.UpdateStatus_ROLLBACK_STARTED, StartedAt: timestamppb.Now(), StartedVersion: svc.GetMeta().GetVersion(),
			Message: "rollback asked for by " + actor(ctx),
		}
		changes, err := s.reendpoint(v, id, previous.GetSpec())
		return append(changes, raftstore.Update(row)), err
	})
	if err != nil {
		return nil, fmt.Errorf("roll back service %s: %w", id, err)
	}
	return &swarmv1.UpdateServiceResponse{Index: index, Revision: number}, nil
}

// RemoveService marks the service; the planner stops its tasks and then deletes its rows.
func (s *Server) RemoveService(ctx context.Context, req *swarmv1.GetRequest) (*swarmv1.RemoveResponse, error) {
	svc, err := findService(s.store.View(), req.GetId())
	if err != nil {
		return nil, err
	}
	_, err = s.write(ctx, 0, func(v *raftstore.View) ([]*swarmv1.Change, error) {
		row, ok := v.Services.Get(svc.GetId())
		if !ok || row.GetPendingDelete() {
			return nil, nil
		}
		row = row.CloneVT()
		row.PendingDelete = true
		return []*swarmv1.Change{raftstore.Update(row)}, nil
	})
	if errdefs.IsNotFound(err) {
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("remove service %s: %w", svc.GetName(), err)
	}
	s.log.Info("service removed", "service", svc.GetId(), "name", svc.GetName(), "actor", actor(ctx))
	return &swarmv1.RemoveResponse{}, nil
}

package object

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"swarm/manager/control/crud"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Services describes services. Their names are unique without regard to case, because they are
// names in DNS. Remove only marks a service: the planner stops its tasks, and then deletes its rows
// and claims.
func Services() crud.Kind[*swarmv1.Service] {
	return crud.Kind[*swarmv1.Service]{
		Word: "service", ListCommand: "swarm service ls",
		Table:   func(v *table.View) table.Rows[*swarmv1.Service] { return v.Services },
		TableID: table.Service,
		Name:    func(_ *table.View, s *swarmv1.Service) string { return s.GetName() },
		ByName: func(v *table.View, name string) iter.Seq[*swarmv1.Service] {
			return crud.One(v.Services.ByName(name))
		},
		Attributes: serviceAttributes,
		Changed: func(old, s *swarmv1.Service) map[string]string {
			return crud.Difference("updatestate", old.GetUpdateStatus().GetState(), s.GetUpdateStatus().GetState())
		},
		Subject: func(v *table.View, s *swarmv1.Service) crud.Subject {
			rev, _ := v.Revision(s.GetId(), s.GetRevision())
			return crud.Subject{
				ID: s.GetId(), Names: []string{s.GetName()}, Labels: []map[string]string{rev.GetSpec().GetLabels()},
				Services: []string{s.GetId()}, Mode: Mode(rev.GetSpec()),
			}
		},
		Compare: crud.ByName((*swarmv1.Service).GetName),
		Remedy:  ", or change that one with `swarm service update`",
		Mark:    func(s *swarmv1.Service) { s.PendingDelete = true },
		Marked:  (*swarmv1.Service).GetPendingDelete,
		Awaits: func(s *swarmv1.Service) string {
			return fmt.Sprintf("its tasks have stopped (`swarm service ps %s`)", s.GetId())
		},
	}
}

func serviceAttributes(_ *table.View, s *swarmv1.Service) map[string]string {
	a := map[string]string{"name": s.GetName(), "revision": strconv.FormatUint(s.GetRevision(), 10)}
	if st := s.GetUpdateStatus(); st != nil {
		a["updatestate"] = strings.ToLower(st.GetState().String())
	}
	return a
}

// ServiceName returns the name of a service, or its id if it does not exist any more.
func ServiceName(v *table.View, id string) string {
	if svc, ok := v.Services.Get(id); ok {
		return svc.GetName()
	}
	return id
}

// Mode returns the mode of a service as users write it: "replicated", "global", "replicated-job" or
// "global-job".
func Mode(s *swarmv1.ServiceSpec) string {
	switch s.GetMode().GetMode().(type) {
	case *swarmv1.ServiceMode_Global:
		return "global"
	case *swarmv1.ServiceMode_ReplicatedJob:
		return "replicated-job"
	case *swarmv1.ServiceMode_GlobalJob:
		return "global-job"
	default:
		return "replicated"
	}
}

// OnNetwork reports whether the tasks of a revision are attached to the network with this id.
func OnNetwork(rev *swarmv1.Revision, network string) bool {
	return slices.ContainsFunc(rev.GetSpec().GetTaskTemplate().GetNetworks(), func(n *swarmv1.NetworkAttachmentConfig) bool {
		return n.GetTarget() == network
	})
}

// ShownRevision returns a revision without the credentials for a registry that it may have. It does
// not change the argument.
func ShownRevision(r *swarmv1.Revision) *swarmv1.Revision {
	if r.GetSpec().GetTaskTemplate().GetContainerSpec().GetPullOptions().GetRegistryAuth() == "" {
		return r
	}
	r = r.CloneVT()
	r.Spec.TaskTemplate.ContainerSpec.PullOptions = nil
	return r
}

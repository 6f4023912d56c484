package raftstore

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

var errNoLeader = errdefs.ErrUnavailable.WithMessage("the managers have no leader: more than half of them must be up and reach each other (swarm node ls)")

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// refusalError returns the error for the result of a group, or nil if the group was applied. The
// words of the error are made here, because the replicated result has none.
func refusalError(r *swarmv1.GroupResult) error {
	if r.GetError() == "" && r.GetCode() == 0 {
		return nil
	}
	text := r.GetError() // from an entry of format 1
	if text == "" {
		text = table.Explain(r.GetRefusal())
	}
	return errgrpc.ToNative(status.Error(codes.Code(r.GetCode()), text))
}

// fillResults stores the refusals of an answer in into, by group.
func fillResults(a *swarmv1.Answer, into []error) {
	for _, r := range a.GetRefused() {
		if int(r.GetGroup()) < len(into) {
			into[r.GetGroup()] = refusalError(r.GetResult())
		}
	}
}

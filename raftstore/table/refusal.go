package table

import (
	"fmt"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swarmv1 "swarm/proto/swarm/v1"
)

// formatRefusals is the first format in which a replicated answer has only the reason of a refusal.
// In format 1 it also has the words for the user, because builds that know only format 1 recognise
// a refusal by its words.
const formatRefusals = 2

// refuse returns the result of a refused group.
func refuse(r *swarmv1.GroupRefusal) *swarmv1.GroupResult {
	return &swarmv1.GroupResult{Code: uint32(refusalCode(r.GetReason())), Refusal: r}
}

func refuseRow(reason swarmv1.GroupRefusal_Reason, table ID, key string) *swarmv1.GroupResult {
	return refuse(&swarmv1.GroupRefusal{Reason: reason, Table: uint32(table), Key: key})
}

// refuseAll returns the answer that refuses every group of a request.
func refuseAll(r *swarmv1.Request, why *swarmv1.GroupRefusal) *swarmv1.Answer {
	a := &swarmv1.Answer{Sequence: r.GetSequence(), Groups: uint32(len(r.GetGroups()))}
	for i := range r.GetGroups() {
		a.Refused = append(a.Refused, &swarmv1.Refused{Group: uint32(i), Result: refuse(why)})
	}
	return a
}

// addWords adds the words of the refusals to an answer, for members that know only format 1.
func addWords(a *swarmv1.Answer) {
	for _, r := range a.GetRefused() {
		r.Result.Error = Explain(r.GetResult().GetRefusal())
	}
}

func refusalCode(reason swarmv1.GroupRefusal_Reason) codes.Code {
	switch reason {
	case swarmv1.GroupRefusal_WRONG_EPOCH:
		return codes.FailedPrecondition
	case swarmv1.GroupRefusal_NO_KEY:
		return codes.InvalidArgument
	case swarmv1.GroupRefusal_EXISTS, swarmv1.GroupRefusal_NAME_TAKEN:
		return codes.AlreadyExists
	case swarmv1.GroupRefusal_GONE:
		return codes.NotFound
	case swarmv1.GroupRefusal_GIVEN_UP, swarmv1.GroupRefusal_OTHER_VERSION, swarmv1.GroupRefusal_OLD_REPORT:
		return codes.Aborted
	}
	return codes.Unknown
}

// ResultError returns the error for the result of a group, or nil if the group was applied. From
// format 2 on, the result has only the reason of the refusal, and Explain makes the text.
func ResultError(r *swarmv1.GroupResult) error {
	if r.GetError() == "" && r.GetCode() == 0 {
		return nil
	}
	text := r.GetError() // set only in format 1
	if text == "" {
		text = Explain(r.GetRefusal())
	}
	return errgrpc.ToNative(status.Error(codes.Code(r.GetCode()), text))
}

// Explain returns a refusal in words, for users.
func Explain(r *swarmv1.GroupRefusal) string {
	table := ID(r.GetTable())
	switch r.GetReason() {
	case swarmv1.GroupRefusal_WRONG_EPOCH:
		return fmt.Sprintf("the request is of cluster epoch %d; this is epoch %d", r.GetWant(), r.GetHave())
	case swarmv1.GroupRefusal_GIVEN_UP:
		return "the request was given up by its sender"
	case swarmv1.GroupRefusal_NO_KEY:
		return fmt.Sprintf("%s has no key", table)
	case swarmv1.GroupRefusal_EXISTS:
		if table == Claim {
			return fmt.Sprintf("%s %s exists and belongs to %s", table, r.GetKey(), r.GetHolder())
		}
		return fmt.Sprintf("%s %s exists", table, r.GetKey())
	case swarmv1.GroupRefusal_GONE:
		return fmt.Sprintf("%s %s is gone", table, r.GetKey())
	case swarmv1.GroupRefusal_OTHER_VERSION:
		return fmt.Sprintf("%s %s has changed: its version is %d, not %d", table, r.GetKey(), r.GetHave(), r.GetWant())
	case swarmv1.GroupRefusal_OLD_REPORT:
		return fmt.Sprintf("%s %s has changed: report %d/%d is not newer than %d/%d", table, r.GetKey(),
			r.GetWantEpoch(), r.GetWant(), r.GetHaveEpoch(), r.GetHave())
	case swarmv1.GroupRefusal_NAME_TAKEN:
		return fmt.Sprintf("%s name %q is taken by %s", table, r.GetName(), r.GetHolder())
	}
	return fmt.Sprintf("the change was refused for reason %d, which this manager does not know", r.GetReason())
}

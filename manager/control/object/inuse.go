package object

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// maxNamed is how many objects a message names.
const maxNamed = 5

// NameList joins the first names for a message, and counts the rest: "a, b, c, d, e and 2 more".
func NameList(names []string) string {
	text := strings.Join(names[:min(maxNamed, len(names))], ", ")
	if more := len(names) - maxNamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// InUse returns the error which says that services use an object. If all of them are being removed,
// it is a PendingRemoval. remedy returns what the user can do; its argument is the name of the
// first service.
func InUse(users []*swarmv1.Service, remedy func(service string) string) error {
	var names, ids []string
	for _, svc := range users {
		names, ids = append(names, svc.GetName()), append(ids, svc.GetId())
	}
	slices.Sort(names)
	text := NameList(names)
	word := "service"
	if len(names) > 1 {
		word = "services"
	}
	if !slices.ContainsFunc(users, func(svc *swarmv1.Service) bool { return !svc.GetPendingDelete() }) {
		return Services().PendingRemoval(fmt.Sprintf("it is in use by %s %s, still being removed: try again when the tasks have stopped", word, text), ids...)
	}
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("it is in use by %s %s: %s", word, text, remedy(names[0])))
}

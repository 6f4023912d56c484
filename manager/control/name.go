package control

import (
	"fmt"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// Containers look services and networks up in DNS, which knows no case: services Api and api would answer for each other. The
// store refuses a second row of the same name, but not one in another spelling, because older members and older logs have
// accepted those. The claim "name/<kind>/<name in small letters>" makes the name unique among rows that are written at the
// same moment.

// claimName claims a name that is free in v. A claim that is there nevertheless was left behind by an older build.
func claimName(v *raftstore.View, kind, name, owner string) *swarmv1.Change {
	left, ok := v.Claims.Get(nameClaim(kind, name))
	if !ok {
		return raftstore.Create(&swarmv1.Claim{Key: nameClaim(kind, name), Owner: owner})
	}
	left = left.CloneVT()
	left.Owner = owner
	return raftstore.Update(left)
}

func nameClaim(kind, name string) string { return "name/" + kind + "/" + ident.Fold(name) }

// sameButForCase refuses a name that another object has in another spelling. remedy is what else the user can do than to
// choose another name.
func sameButForCase(kind, name, other, id, remedy string) error {
	return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf(
		"%s name %s differs only in case from that of %s %s (%s), and DNS knows no case: choose another name%s", kind, name, kind, other, id, remedy))
}

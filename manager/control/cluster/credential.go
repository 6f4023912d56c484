package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/manager/control/crud"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// ListCredentials returns the credentials of users that the filter matches, ordered by name. Among
// credentials with the same name, the oldest comes first.
func (s *Server) ListCredentials(_ context.Context, req *swarmv1.ListRequest) (*swarmv1.ListCredentialsResponse, error) {
	return &swarmv1.ListCredentialsResponse{Credentials: object.Credentials().List(s.store.View(), req.GetFilter())}, nil
}

// RemoveCredential revokes the credential with an id, or a unique beginning of one, or all
// credentials with a name. A manager that receives the change refuses their holders, and closes
// their connections.
func (s *Server) RemoveCredential(ctx context.Context, req *swarmv1.GetRequest) (*swarmv1.RemoveCredentialResponse, error) {
	out := &swarmv1.RemoveCredentialResponse{}
	_, err := s.writer.Write(ctx, 0, func(v *table.View) ([]*swarmv1.Change, error) {
		named, err := findCredentials(v, req.GetId())
		if err != nil {
			return nil, err
		}
		out.Removed, out.Issued = named, issuedBy(v, named)
		var changes []*swarmv1.Change
		for _, c := range named {
			changes = append(changes, table.Delete(c))
		}
		return changes, nil
	})
	if err != nil {
		return nil, fmt.Errorf("remove credential: %w", err)
	}
	return out, nil
}

// findCredentials finds credentials by the rule of Kind.Find, except that a name may refer to
// several.
func findCredentials(v *table.View, ref string) ([]*swarmv1.Credential, error) {
	if ref == "" {
		return nil, errdefs.ErrInvalidArgument.WithMessage("credential is not named: give its id, the beginning of its id, or its name")
	}
	if c, ok := v.Credentials.Get(ref); ok {
		return []*swarmv1.Credential{c}, nil
	}
	var named, begun []*swarmv1.Credential
	for c := range v.Credentials.All() {
		if c.GetName() == ref {
			named = append(named, c)
		}
		if len(ref) >= crud.MinPrefix && strings.HasPrefix(c.GetId(), ref) {
			begun = append(begun, c)
		}
	}
	switch {
	case len(named) > 0:
		slices.SortStableFunc(named, object.Credentials().Compare)
		return named, nil
	case len(begun) == 1:
		return begun, nil
	case len(begun) > 1:
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("credential %s is ambiguous: %d ids begin with it: give more of the id", ref, len(begun)))
	}
	return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("credential %s not found: list them with `swarm credential ls`", ref))
}

// issuedBy returns the credentials that the holders of issuers created, and those that the holders
// of these created, and so on. It does not return the issuers.
func issuedBy(v *table.View, issuers []*swarmv1.Credential) []*swarmv1.Credential {
	known := make(map[string]bool)
	for _, c := range issuers {
		known[c.GetId()] = true
	}
	var out []*swarmv1.Credential
	for found := true; found; {
		found = false
		for c := range v.Credentials.All() {
			if known[c.GetIssuerId()] && !known[c.GetId()] {
				known[c.GetId()], found = true, true
				out = append(out, c)
			}
		}
	}
	slices.SortStableFunc(out, object.Credentials().Compare)
	return out
}

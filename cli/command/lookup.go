package command

import (
	"context"

	swarmv1 "swarm/proto/swarm/v1"
)

// SelfID returns the id of the node that answers, or "" if its daemon does not report the id.
func SelfID(ctx context.Context, c Client) string {
	r, err := c.Daemon.Info(ctx, &swarmv1.InfoRequest{})
	if err != nil {
		return ""
	}
	return r.NodeId
}

// FindNode returns the node that ref names: an id, a unique prefix of one, a hostname, or "self"
// for the node that answers.
func FindNode(ctx context.Context, c Client, ref string) (*swarmv1.NodeInfo, error) {
	if ref == "self" {
		if id := SelfID(ctx, c); id != "" {
			ref = id
		}
	}
	return c.GetNode(ctx, &swarmv1.GetRequest{Id: ref})
}

// FindRevision returns a revision of a service, or nil if the service has no revision of that
// number. Revisions are numbered from 1.
func FindRevision(ctx context.Context, c Client, service string, number uint64) (*swarmv1.Revision, error) {
	if number == 0 {
		return nil, nil
	}
	r, err := c.ListRevisions(ctx, &swarmv1.GetRequest{Id: service})
	if err != nil {
		return nil, err
	}
	for _, rev := range r.Revisions {
		if rev.GetNumber() == number {
			return rev, nil
		}
	}
	return nil, nil
}

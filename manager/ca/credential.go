package ca

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/ident"
	"swarm/internal/pki"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// CreateCredential signs a certificate for a user of the API and writes its row. A certificate
// without a row is not accepted. It is valid for at most as long as a node certificate that is
// signed now, and not longer than the credential of the caller.
func (s *Server) CreateCredential(ctx context.Context, req *swarmv1.CreateCredentialRequest) (*swarmv1.CreateCredentialResponse, error) {
	if err := ident.CheckUserName(req.GetName()); err != nil {
		return nil, err
	}
	who, err := transport.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	view, c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	root, bundle, err := signingRoot(c)
	if err != nil {
		return nil, fmt.Errorf("create credential %s: %w", req.GetName(), err)
	}
	now := time.Now()
	until, err := lifetime(req, c, who, now)
	if err != nil {
		return nil, fmt.Errorf("create credential %s: %w", req.GetName(), err)
	}
	cert, err := root.SignUser(req.GetCsr(), req.GetName(), until.Sub(now), now)
	if err != nil {
		return nil, fmt.Errorf("create credential %s: %w", req.GetName(), err)
	}
	row := &swarmv1.Credential{
		Id: pki.Serial(cert), Name: req.GetName(), Until: timestamppb.New(cert.NotAfter), Issuer: who.String(), IssuerId: who.Credential(),
	}
	if err := s.write(ctx, view, row); err != nil {
		return nil, fmt.Errorf("create credential %s: %w", req.GetName(), err)
	}
	s.log.Info("credential created", "user", req.GetName(), "id", row.GetId(), "issuer", row.GetIssuer(), "not_after", cert.NotAfter)
	return &swarmv1.CreateCredentialResponse{Certificate: certPEM(cert), Bundle: bundle.PEM(), Managers: Managers(view)}, nil
}

// write commits a credential together with the credential of its issuer, which must still exist: a
// revoked credential must not create another one through a manager that does not know of the
// revocation yet.
func (s *Server) write(ctx context.Context, view *table.View, row *swarmv1.Credential) error {
	for {
		changes := []*swarmv1.Change{table.Create(row)}
		if row.GetIssuerId() != "" {
			issuer, ok := view.Credentials.Get(row.GetIssuerId())
			if !ok {
				return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("the credential of %s was revoked", row.GetIssuer()))
			}
			changes = append(changes, table.Update(issuer))
		}
		_, err := s.store.Commit(ctx, row.GetIssuer(), changes...)
		if row.GetIssuerId() == "" || !errdefs.IsAborted(err) && !errdefs.IsNotFound(err) {
			return err
		}
		// The row of the issuer has another version: the issuer creates credentials at the same
		// time, or was revoked.
		if view, err = s.store.Latest(ctx); err != nil {
			return err
		}
	}
}

// lifetime returns when a credential ends. If the request sets no validity, it is the latest time
// that is allowed. A longer validity is refused.
func lifetime(req *swarmv1.CreateCredentialRequest, c *swarmv1.Cluster, who transport.AuthInfo, now time.Time) (time.Time, error) {
	limit := now.Add(validity(c))
	reason := fmt.Sprintf("certificates of this cluster are valid for at most %s, see `swarm update --cert-expiry`", validity(c))
	if own := who.Peer.NotAfter; who.User() != "" && own.Before(limit) {
		limit, reason = own, "a credential must not outlast the credential that creates it, which ends at "+own.UTC().Format(time.RFC3339)
	}
	if req.GetValidity() == nil {
		return limit, nil
	}
	asked := req.GetValidity().AsDuration()
	switch until := now.Add(asked); {
	case asked <= 0:
		return time.Time{}, invalid("validity %s is not positive", asked)
	case until.After(limit):
		return time.Time{}, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("validity %s is too long: %s", asked, reason))
	default:
		return until, nil
	}
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

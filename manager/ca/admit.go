package ca

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/peer"

	"swarm/internal/origin"
	"swarm/internal/pki"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

const tokenRotated = "join token was rotated or is mistyped: get the current one with `swarm join-token worker` on a manager"

// CheckToken returns an error if the caller has not proved that it knows a join token. Otherwise it
// adds to the answer the proof that this manager knows the token too.
func (s *Server) CheckToken(ctx context.Context) error {
	_, _, err := s.admit(ctx)
	return err
}

// WrongTokens returns the number of calls that were refused because they proved no current join
// token.
func (s *Server) WrongTokens() uint64 { return s.wrong.Load() }

// LeaderQueries returns the number of queries to the leader that wrong tokens and unknown nodes
// have caused.
func (s *Server) LeaderQueries() uint64 { return s.fresh.LeaderQueries() }

// admit returns the newest view and the role with which the caller may join. It adds the proof of
// this side to the answer.
//
// The newest state decides, not this replica: a token that was just rotated must not count, and a
// token that was just made must count. A caller that knows a token of this replica causes a query
// to the leader at once. All other callers share one query a second, and each origin has a limit.
func (s *Server) admit(ctx context.Context) (*table.View, swarmv1.NodeSpec_Role, error) {
	_, c, err := s.cluster()
	if err != nil {
		return nil, 0, err
	}
	_, known, err := proved(ctx, c)
	if err != nil {
		return nil, 0, err
	}
	newest := s.store.Latest
	if known == nil {
		if s.guesses.Take(origin.Of(remote(ctx))) > 0 {
			return nil, 0, s.refuse(ctx, errdefs.ErrResourceExhausted.WithMessage(
				"too many wrong join tokens from this address: wait a minute, and get the current token with `swarm join-token worker` on a manager"))
		}
		newest = s.fresh.View
	}
	view, err := newest(ctx)
	switch {
	case err != nil:
		return nil, 0, err
	case view.Cluster() == nil:
		return nil, 0, errdefs.ErrUnavailable.WithMessage("the cluster is being created: try again")
	}
	role, token, err := proved(ctx, view.Cluster())
	switch {
	case err != nil:
		return nil, 0, err
	case token == nil:
		return nil, 0, s.refuse(ctx, errdefs.ErrUnauthenticated.WithMessage(tokenRotated))
	}
	return view, role, transport.AnswerProof(ctx, *token)
}

// proved returns the join token that the caller has proved to know, and its role. The token is nil
// if there is none.
func proved(ctx context.Context, c *swarmv1.Cluster) (swarmv1.NodeSpec_Role, *pki.Token, error) {
	roles := []swarmv1.NodeSpec_Role{swarmv1.NodeSpec_WORKER, swarmv1.NodeSpec_MANAGER}
	tokens := make([]pki.Token, len(roles))
	for i, text := range []string{c.GetRootCa().GetJoinTokens().GetWorker(), c.GetRootCa().GetJoinTokens().GetManager()} {
		var err error
		if tokens[i], err = pki.ParseToken(text); err != nil {
			return 0, nil, fmt.Errorf("read the cluster's %s token: %w", roles[i], errdefs.ErrInternal)
		}
	}
	i, err := transport.Proved(ctx, tokens...)
	if err != nil || i < 0 {
		return 0, nil, err
	}
	return roles[i], &tokens[i], nil
}

// refuse counts a wrong token and logs it, with one line a minute for each origin.
func (s *Server) refuse(ctx context.Context, err error) error {
	s.wrong.Add(1)
	from := remote(ctx)
	text := "unknown"
	if from != nil {
		text = from.String()
	}
	s.refusals.Log(slog.LevelWarn, "wrong join token "+origin.Of(from).String(), "join refused", "remote", text, "err", err)
	return err
}

// remote returns the address of the caller, or nil if it is not known.
func remote(ctx context.Context) net.Addr {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr
	}
	return nil
}

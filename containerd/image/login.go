//go:build linux

package image

import (
	"context"
	"fmt"
	"net/http"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"

	"swarm/internal/spec"
)

// Login asks a registry whether it takes the credentials (X-Registry-Auth). ErrUnauthenticated: it does not.
func (s *Store) Login(ctx context.Context, registry, auth string) error {
	given, err := parseCredentials(auth)
	if err != nil {
		return err
	}
	// Any name in the registry will do: only the registry is asked, for nothing.
	ref, err := spec.ParseImage(registry + "/library/login")
	if err != nil || domain(ref.Name) != registry {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is not a registry: write HOST[:PORT]", registry))
	}
	ctx, cancel := context.WithTimeout(quiet(ctx), resolvePatience)
	defer cancel()
	all, err := s.hosts(s.secrets(ref, given))(registry)
	if err != nil {
		return refusal(ref, err)
	}
	own := all[len(all)-1] // mirrors come before it
	err = ping(ctx, own)
	if errdefs.IsUnauthorized(classed(err)) {
		return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("registry %s does not take this user name and password", registry))
	}
	if err != nil {
		return refusal(ref, err)
	}
	return nil
}

// ping asks for the root of the API, as one who has been asked to log in.
func ping(ctx context.Context, host docker.RegistryHost) error {
	var asked []*http.Response
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://%s%s/", host.Scheme, host.Host, host.Path), nil)
		if err != nil {
			return err
		}
		if err := host.Authorizer.Authorize(ctx, req); err != nil {
			return err
		}
		resp, err := host.Client.Do(req)
		if err != nil {
			return err
		}
		if err := resp.Body.Close(); err != nil {
			return err
		}
		asked = append(asked, resp)
		switch {
		case resp.StatusCode == http.StatusOK:
			return nil
		case resp.StatusCode != http.StatusUnauthorized || len(asked) > 1:
			return fmt.Errorf("answer %s: %w", resp.Status, classOf(resp.StatusCode))
		}
		if err := host.Authorizer.AddResponses(ctx, asked); err != nil {
			return err
		}
	}
}

//go:build linux

package registry

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"

	"swarm/internal/spec"
)

// loginTimeout bounds the check of a login.
const loginTimeout = 15 * time.Second

// Login asks a registry, HOST[:PORT], whether it accepts the credentials in auth, a header
// X-Registry-Auth. ErrUnauthenticated: it does not. ErrInvalidArgument: registry or auth is
// malformed. Other errors are those of PushError.
func (c *Client) Login(ctx context.Context, registry, auth string) error {
	given, err := ParseCredentials(auth)
	if err != nil {
		return err
	}
	// The name does not matter, because only the registry's root is asked for.
	ref, err := spec.ParseImage(registry + "/library/login")
	if err != nil || domain(ref.Name) != registry {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is not a registry: write HOST[:PORT]", registry))
	}
	ctx, cancel := context.WithTimeout(Quiet(ctx), loginTimeout)
	defer cancel()
	all, err := c.hosts(c.secrets(ref, given))(registry)
	if err != nil {
		return PushError(ref, err)
	}
	err = ping(ctx, all[len(all)-1]) // The last host is the registry; its mirrors come before it.
	if errdefs.IsUnauthorized(Class(err)) {
		return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("registry %s does not take this user name and password", registry))
	}
	if err != nil {
		return PushError(ref, err)
	}
	return nil
}

// ping requests the root of the registry's API, and authenticates when the registry asks for it.
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

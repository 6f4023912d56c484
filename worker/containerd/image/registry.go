//go:build linux

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"

	"swarm/internal/spec"
)

const (
	// dialPatience bounds finding and connecting to a registry: a cluster without one must learn so soon.
	dialPatience = 3 * time.Second
	// answerPatience bounds the wait for an answer's header.
	answerPatience = 15 * time.Second
)

// newRegistryTransport goes through the proxies of the environment, as Docker does.
func newRegistryTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialPatience, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   2 * dialPatience,
		ResponseHeaderTimeout: answerPatience,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   parallel,
		IdleConnTimeout:       30 * time.Second,
	}
}

// firm makes a registry that could not be reached an answer: containerd's resolver would try it five times, and then
// again by another path. It serves one pull.
type firm struct {
	next http.RoundTripper
}

func (f firm) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := f.next.RoundTrip(req)
	if err == nil || req.Context().Err() != nil {
		return resp, err
	}
	return nil, unreachable{err}
}

// unreachable hides from the resolver that an error was a timeout or an early end.
type unreachable struct{ cause error }

func (u unreachable) Error() string { return u.cause.Error() }
func (u unreachable) Is(target error) bool {
	return target == errdefs.ErrUnavailable
}

// resolver speaks to the registry of one image.
func (s *Store) resolver(ref spec.Image, given credentials) remotes.Resolver {
	client := &http.Client{Transport: firm{s.registry}}
	authorizer := docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(s.secrets(ref, given)))
	return docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(
		docker.WithClient(client), docker.WithAuthorizer(authorizer), docker.WithPlainHTTP(s.plain))})
}

// secrets gives the caller's credentials, else those of Docker's configuration, to the image's registry and no other.
func (s *Store) secrets(ref spec.Image, given credentials) func(string) (string, string, error) {
	registry := domain(ref.Name)
	return func(host string) (string, string, error) {
		if own, err := docker.DefaultHost(registry); err != nil || host != own {
			return "", "", err
		}
		found := given
		if found == (credentials{}) {
			var err error
			if found, err = keychained(s.deps.Keychain, registry); err != nil {
				// A public image needs none; what needs them says so.
				s.log.Warn("credentials of a registry not found", "registry", registry, "err", err)
			}
		}
		user, secret := found.secret()
		return user, secret, nil
	}
}

// plain says which registries are spoken to without TLS.
func (s *Store) plain(host string) (bool, error) {
	if slices.Contains(s.cfg.Insecure, host) {
		return true, nil
	}
	return docker.MatchLocalhost(host)
}

// Resolve asks the registry which digest a reference has now; X-Registry-Auth may be empty. ErrNotFound,
// ErrUnauthenticated and ErrPermissionDenied are the registry's answers; ErrUnavailable: it could not be asked.
func (s *Store) Resolve(ctx context.Context, ref, auth string) (string, error) {
	parsed, err := spec.ParseImage(ref)
	if err != nil {
		return "", err
	}
	given, err := parseCredentials(auth)
	if err != nil {
		return "", err
	}
	digest, err := s.resolve(ctx, parsed, given)
	if err != nil {
		return "", explain(parsed, err, peersHaveNot)
	}
	return digest, nil
}

func (s *Store) resolve(ctx context.Context, ref spec.Image, given credentials) (string, error) {
	at := ref.Name
	if ref.Digest != "" {
		at = repository(ref.Name) + "@" + ref.Digest
	}
	_, desc, err := s.resolver(ref, given).Resolve(quiet(ctx), at)
	if err != nil {
		return "", err
	}
	return desc.Digest.String(), nil
}

// quiet keeps containerd's client from logging on its own: what matters comes back as an error.
func quiet(ctx context.Context) context.Context {
	return log.WithLogger(ctx, logrus.NewEntry(&logrus.Logger{Out: io.Discard, Formatter: &logrus.TextFormatter{}, Level: logrus.PanicLevel}))
}

// classed gives an error of a registry one class: the registry's answer, or ErrUnavailable.
func classed(err error) error {
	var status remoteerrors.ErrUnexpectedStatus
	var codes docker.Errors
	switch {
	case errors.As(err, &status):
		return fmt.Errorf("%w: %w", err, classOf(status.StatusCode))
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return fmt.Errorf("%w: %w", err, errdefs.ErrUnauthenticated)
	case errors.As(err, &codes) && len(codes) > 0:
		var first docker.Error
		if errors.As(codes[0], &first) {
			return fmt.Errorf("%w: %w", err, classOf(first.Code.Descriptor().HTTPStatusCode))
		}
	case errdefs.IsNotFound(err), errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err),
		errdefs.IsInvalidArgument(err), errdefs.IsUnavailable(err), errdefs.IsDataLoss(err):
		return err
	}
	return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
}

func classOf(status int) error {
	switch status {
	case http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case http.StatusNotFound:
		return errdefs.ErrNotFound
	}
	return errdefs.ErrUnavailable
}

// explain says in one line why an image cannot be had, and what to do. Callers have named the image. peers says what the
// nodes that were asked mean for an image that no registry has.
func explain(ref spec.Image, err error, peers peerState) error {
	registry, load := domain(ref.Name), "load it with "+spec.LoadHint(ref.Name)
	var local *localError
	if errors.As(err, &local) {
		return err
	}
	err = classed(err)
	switch {
	case errdefs.IsInvalidArgument(err), errdefs.IsCanceled(err):
		return err
	case peers == peersHave:
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("the nodes that hold it did not deliver it, and neither did registry %s (%s)", registry, lastCause(err)))
	case errdefs.IsNotFound(err) && peers == peersUnknown:
		return errdefs.ErrUnavailable.WithMessage("no registry has it, nor any node that answers; some nodes do not answer: " + load)
	case errdefs.IsNotFound(err):
		return errdefs.ErrNotFound.WithMessage("no node or registry has it: " + load)
	case errdefs.IsUnauthorized(err):
		return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("registry %s wants a login, or does not have it: run `docker login` and pass --with-registry-auth, or %s", registry, load))
	case errdefs.IsPermissionDenied(err):
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("registry %s refuses it to this user: ask for access, or %s", registry, load))
	}
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("no node has it, and registry %s cannot be asked (%s): %s", registry, lastCause(err), load))
}

// lastCause is the end of an error's chain, as in "dial tcp 192.0.2.1:443: connect: network is unreachable", which is all
// that a user can act on. The class that classed may have added is none.
func lastCause(err error) string {
	text := strings.TrimSuffix(oneLine(err), ": "+errdefs.ErrUnavailable.Error())
	if at := strings.LastIndex(text, ": "); at >= 0 {
		text = text[at+len(": "):]
	}
	return text
}

// peerState is what is known of an image on other nodes.
type peerState int

const (
	peersHaveNot peerState = iota
	peersUnknown           // some could not be asked
	peersHave              // some have at least a part
)

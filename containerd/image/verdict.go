//go:build linux

package image

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"

	"swarm/internal/spec"
)

// classed gives an error of a registry one class: the registry's answer, or ErrUnavailable.
func classed(err error) error {
	var status remoteerrors.ErrUnexpectedStatus
	var codes docker.Errors
	switch {
	case distrusted(err):
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
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
		errdefs.IsInvalidArgument(err), errdefs.IsFailedPrecondition(err), errdefs.IsUnavailable(err), errdefs.IsDataLoss(err):
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
	case errdefs.IsFailedPrecondition(err):
		return errdefs.ErrFailedPrecondition.WithMessage(distrust(registry, err))
	case errdefs.IsNotFound(err) && peers == peersUnknown:
		return errdefs.ErrUnavailable.WithMessage("no registry has it, nor any node that answers; some nodes do not answer: " + load)
	case errdefs.IsNotFound(err):
		return errdefs.ErrNotFound.WithMessage("no node or registry has it: " + load)
	case errdefs.IsUnauthorized(err):
		return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("registry %s wants a login, or does not have it: run `swarm login %s` and pass --with-registry-auth, or %s", registry, registry, load))
	case errdefs.IsPermissionDenied(err):
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("registry %s refuses it to this user: ask for access, or %s", registry, load))
	}
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) { // it is there, and will be better
		load = "see what ails it"
	}
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("no node has it, and registry %s %s: %s", registry, ailment(err), load))
}

// ailment is what is wrong with a registry that should have been of use.
func ailment(err error) string {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return "answered " + status.Status
	}
	return fmt.Sprintf("cannot be asked (%s)", lastCause(err))
}

// distrust says why a registry is not spoken to, and what would change that. Other errors are for users already.
func distrust(registry string, err error) string {
	var (
		u         unreachable
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		record    tls.RecordHeaderError
	)
	if !errors.As(err, &u) {
		return oneLine(err)
	}
	place := "/etc/swarm/certs.d/" + registry + "/ca.crt"
	switch {
	case errors.As(u.cause, &authority):
		return fmt.Sprintf("registry %s has a certificate of an authority that this node does not know: put the authority's certificate into %s on every node", registry, place)
	case errors.As(u.cause, &name):
		return fmt.Sprintf("registry %s has a certificate for other names (%s): call it by one of them, or give it another certificate", registry, lastCause(u.cause))
	case errors.As(u.cause, &record), strings.Contains(u.cause.Error(), "HTTP response to HTTPS client"):
		return fmt.Sprintf("registry %s does not speak TLS: give it a certificate, or run the daemons with --insecure-registry %s", registry, registry)
	}
	return fmt.Sprintf("registry %s has a certificate that is not valid (%s): give it another, or run the daemons with --insecure-registry %s", registry, lastCause(u.cause), registry)
}

// distrusted says that no further attempt can be better: it is a matter of configuration.
func distrusted(err error) bool {
	var (
		u      unreachable
		cert   *tls.CertificateVerificationError
		record tls.RecordHeaderError
	)
	return errors.As(err, &u) && (errors.As(u.cause, &cert) || errors.As(u.cause, &record) ||
		strings.Contains(u.cause.Error(), "HTTP response to HTTPS client"))
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

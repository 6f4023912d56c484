//go:build linux

package registry

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

// Class gives an error of a registry, or of a download, a single class: that of the registry's
// answer (ErrUnauthenticated, ErrPermissionDenied, ErrNotFound), ErrFailedPrecondition if this node
// must be configured differently, the class that err has already, or ErrUnavailable, which is
// transient.
func Class(err error) error {
	var status remoteerrors.ErrUnexpectedStatus
	var codes docker.Errors
	switch {
	case isConfiguration(err):
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

// PullError says in one line why an image cannot be pulled, and what to do. The caller adds the
// name of the image. peers says what is known of the image on other nodes. A LocalError is returned
// as it is; other errors have one of the classes of Class.
func PullError(ref spec.Image, err error, peers PeerState) error {
	registry, load := domain(ref.Name), "load it with "+spec.LoadHint(ref.Name)
	var local *LocalError
	if errors.As(err, &local) {
		return err
	}
	err = Class(err)
	switch {
	case errdefs.IsInvalidArgument(err), errdefs.IsCanceled(err):
		return err
	case peers == PeersHave:
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("the nodes that hold it did not deliver it, and neither did registry %s (%s)", registry, lastCause(err)))
	case errdefs.IsFailedPrecondition(err):
		return errdefs.ErrFailedPrecondition.WithMessage(distrust(registry, err))
	case errdefs.IsNotFound(err) && peers == PeersUnknown:
		return errdefs.ErrUnavailable.WithMessage("no registry has it, nor any node that answers; some nodes do not answer: " + load)
	case errdefs.IsNotFound(err):
		return errdefs.ErrNotFound.WithMessage("no node or registry has it: " + load)
	case errdefs.IsUnauthorized(err):
		return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("registry %s wants a login, or does not have it: run `swarm login %s` and pass --with-registry-auth, or %s", registry, registry, load))
	case errdefs.IsPermissionDenied(err):
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("registry %s refuses it to this user: ask for access, or %s", registry, load))
	}
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) { // It answers, so it may work again soon.
		load = "check the registry"
	}
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("no node has it, and registry %s %s: %s", registry, ailment(err), load))
}

// ailment says what is wrong with a registry that did not answer as it should.
func ailment(err error) string {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return "answered " + status.Status
	}
	return fmt.Sprintf("cannot be asked (%s)", lastCause(err))
}

// distrust says why this node does not talk to a registry, and what would change that. Errors other
// than unreachable are written for users already.
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

// isConfiguration reports whether a further attempt cannot succeed, because the error is a matter
// of configuration: TLS against plain HTTP, or a certificate that this node does not accept.
func isConfiguration(err error) bool {
	var (
		u      unreachable
		cert   *tls.CertificateVerificationError
		record tls.RecordHeaderError
	)
	return errors.As(err, &u) && (errors.As(u.cause, &cert) || errors.As(u.cause, &record) ||
		strings.Contains(u.cause.Error(), "HTTP response to HTTPS client"))
}

// lastCause returns the last part of an error's text, as in "dial tcp 192.0.2.1:443: connect:
// network is unreachable", because a user can act on that alone. It skips a class that Class has
// added.
func lastCause(err error) string {
	text := strings.TrimSuffix(oneLine(err), ": "+errdefs.ErrUnavailable.Error())
	if at := strings.LastIndex(text, ": "); at >= 0 {
		text = text[at+len(": "):]
	}
	return text
}

// PeerState says what is known of an image on other nodes.
type PeerState int

const (
	// PeersHaveNot says that all nodes that might hold the image were asked, and do not.
	PeersHaveNot PeerState = iota
	// PeersUnknown says that some nodes could not be asked.
	PeersUnknown
	// PeersHave says that some nodes hold at least a part of the image.
	PeersHave
)

// PushError says in one line why a registry does not accept an image or a login, and what to do.
// The caller adds the name of the image. A LocalError is unwrapped; other errors have one of the
// classes of Class.
func PushError(ref spec.Image, err error) error {
	registry := domain(ref.Name)
	var local *LocalError
	if errors.As(err, &local) {
		return local.Err
	}
	err = Class(err)
	switch {
	case errdefs.IsFailedPrecondition(err):
		return errdefs.ErrFailedPrecondition.WithMessage(distrust(registry, err))
	case errdefs.IsUnauthorized(err):
		return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("registry %s wants a login: run `swarm login %s`", registry, registry))
	case errdefs.IsPermissionDenied(err):
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("registry %s does not let this user write: ask for access, or log in as another with `swarm login %s`", registry, registry))
	case errdefs.IsNotFound(err), errdefs.IsInvalidArgument(err), errdefs.IsCanceled(err):
		return err
	}
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("registry %s %s", registry, ailment(err)))
}

// LocalError is a failure of this node, such as a full disk. Another source would not help.
type LocalError struct{ Err error }

// Error returns the text of Err.
func (e *LocalError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *LocalError) Unwrap() error { return e.Err }

func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}

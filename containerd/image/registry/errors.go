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

// PullError returns an error with one line of text, which says why an image cannot be pulled, and
// what to do. The caller adds the name of the image. peers says what is known of the image on other
// nodes. PullError returns a LocalError as it is. Other results have one of the classes of Class.
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
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("no node has it, and registry %s %s: %s", registry, fault(err), load))
}

// fault says what is wrong with a registry: it answered with an error, or it could not be asked.
func fault(err error) string {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return "answered " + status.Status
	}
	return fmt.Sprintf("cannot be asked (%s)", lastCause(err))
}

// distrust says why this node does not talk to a registry, and what to do. If err is not of the
// type unreachable, its text is already a message for users, and distrust returns that text.
func distrust(registry string, err error) string {
	var (
		u         unreachable
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		record    tls.RecordHeaderError
	)
	if !errors.As(err, &u) {
		return OneLine(err)
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

// isConfiguration reports whether a user must change the configuration before a further attempt can
// succeed: this node speaks TLS and the registry plain HTTP, or this node does not accept the
// registry's certificate.
func isConfiguration(err error) bool {
	var (
		u      unreachable
		cert   *tls.CertificateVerificationError
		record tls.RecordHeaderError
	)
	return errors.As(err, &u) && (errors.As(u.cause, &cert) || errors.As(u.cause, &record) ||
		strings.Contains(u.cause.Error(), "HTTP response to HTTPS client"))
}

// lastCause returns the part of an error's text after the last colon, for example "network is
// unreachable" of "dial tcp 192.0.2.1:443: connect: network is unreachable", because only this part
// helps a user. It ignores the class that Class has added.
func lastCause(err error) string {
	text := strings.TrimSuffix(OneLine(err), ": "+errdefs.ErrUnavailable.Error())
	if at := strings.LastIndex(text, ": "); at >= 0 {
		text = text[at+len(": "):]
	}
	return text
}

// PeerState says what is known of an image on other nodes.
type PeerState int

const (
	// PeersHaveNot says that all nodes that might hold the image have answered that they do not.
	PeersHaveNot PeerState = iota
	// PeersUnknown says that some nodes could not be asked.
	PeersUnknown
	// PeersHave says that some nodes hold at least a part of the image.
	PeersHave
)

// PushError returns an error with one line of text, which says why a registry does not accept an
// image or a login, and what to do. The caller adds the name of the image. For a LocalError,
// PushError returns the error in it. Other results have one of the classes of Class.
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
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("registry %s %s", registry, fault(err)))
}

// LocalError is a failure of this node, such as a full disk. Another source would not help.
type LocalError struct{ Err error }

// Error returns the text of Err.
func (e *LocalError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *LocalError) Unwrap() error { return e.Err }

// OneLine returns the text of an error with each run of white space replaced by one space.
func OneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}

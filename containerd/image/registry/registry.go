//go:build linux

// Package registry talks to image registries: it finds digests, opens blobs, prepares pushes and
// checks logins, with the mirrors, certificates and credentials that this node has for each
// registry.
//
// It owns the messages that tell users why a registry does not deliver or accept an image. It does
// not talk to a registry whose certificate this node does not accept, unless the configuration
// names the registry as insecure. Package image, and package transfer below it, call it. It runs no
// goroutine. Every method ends with its context or with the package's time limits.
package registry

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/log"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/sirupsen/logrus"

	"swarm/internal/spec"
)

const (
	// dialTimeout bounds the name lookup of, and the connection to, a registry. It is short, so
	// that a cluster without a registry soon turns to other sources.
	dialTimeout = 3 * time.Second
	// answerTimeout bounds the wait for the header of an answer.
	answerTimeout = 15 * time.Second
)

// Config says how registries are reached.
type Config struct {
	// Insecure names registries, as HOST[:PORT], or networks of registries, as ADDRESS/BITS. Their
	// certificates are not verified, and they may speak plain HTTP. Registries on localhost need
	// not be listed.
	Insecure []string
	// CertsDirs are folders with a folder for each registry, laid out as containerd's
	// (HOST/hosts.toml) or Docker's (HOST/ca.crt, client.cert, client.key). The first one that has
	// a folder for the registry counts, then the first one with a folder _default.
	CertsDirs []string
}

// Deps are live objects.
type Deps struct {
	Log *slog.Logger
	// Keychain finds credentials when the caller has none. Nil: Docker's config.json and its
	// helpers.
	Keychain authn.Keychain
}

// Client talks to registries. Its methods are safe for concurrent use.
type Client struct {
	cfg      Config
	log      *slog.Logger
	keychain authn.Keychain
}

// New returns a client. It connects to no registry.
func New(cfg Config, deps Deps) *Client {
	c := &Client{cfg: cfg, log: deps.Log, keychain: deps.Keychain}
	if c.keychain == nil {
		c.keychain = authn.DefaultKeychain
	}
	return c
}

// Pusher returns containerd's pusher of an image to its registry. ref must have a tag and a digest:
// the pusher sets the tag for the manifest or index with that digest.
func (c *Client) Pusher(ctx context.Context, ref spec.Image, given Credentials) (remotes.Pusher, error) {
	return c.resolver(ref, given).Pusher(ctx, ref.Name+"@"+ref.Digest)
}

// resolver returns containerd's client for the registry of one image and its mirrors.
func (c *Client) resolver(ref spec.Image, given Credentials) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{Hosts: c.hosts(c.secrets(ref, given))})
}

// secrets returns a function that finds the credentials for a host. The caller's credentials are
// for the image's registry alone. Other hosts, and callers without credentials, get those in
// Docker's configuration on this node.
func (c *Client) secrets(ref spec.Image, given Credentials) func(string) (string, string, error) {
	registry := domain(ref.Name)
	return func(host string) (string, string, error) {
		imageHost, err := docker.DefaultHost(registry)
		if err != nil {
			return "", "", err
		}
		if host == imageHost {
			host = registry
			if given != (Credentials{}) {
				user, secret := given.secret()
				return user, secret, nil
			}
		}
		found, err := keychained(c.keychain, host)
		if err != nil {
			// A public image needs no credentials. For others the registry reports that they are
			// missing.
			c.log.Warn("credentials of a registry cannot be read", "registry", host, "err", err)
		}
		user, secret := found.secret()
		return user, secret, nil
	}
}

// Digest asks the registry which digest a reference has now. If ref has a digest, Digest returns
// this digest if the registry has it. For the errors, see Class.
func (c *Client) Digest(ctx context.Context, ref spec.Image, given Credentials) (string, error) {
	at := ref.Name
	if ref.Digest != "" {
		at = repository(ref.Name) + "@" + ref.Digest
	}
	_, desc, err := c.resolver(ref, given).Resolve(Quiet(ctx), at)
	if err != nil {
		return "", err
	}
	return desc.Digest.String(), nil
}

// Quiet returns a context with which containerd's registry client does not log by itself, because
// its errors are returned.
func Quiet(ctx context.Context) context.Context {
	return log.WithLogger(ctx, logrus.NewEntry(&logrus.Logger{Out: io.Discard, Formatter: &logrus.TextFormatter{}, Level: logrus.PanicLevel}))
}

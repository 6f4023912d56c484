//go:build linux

package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// anyHost is the name of the folder for all registries that have no folder with their name.
const anyHost = "_default"

// idleConns is how many connections to a registry are kept: as many as a pull fetches blobs in
// parallel.
const idleConns = 4

// hosts returns a function that says how to reach a registry: the mirrors first, with which
// certificates, and whether without TLS. The function serves one pull, and reads the folders once
// for each registry.
func (c *Client) hosts(credentials func(string) (string, string, error)) docker.RegistryHosts {
	var mu sync.Mutex // guards known
	known := map[string][]docker.RegistryHost{}
	return func(host string) ([]docker.RegistryHost, error) {
		mu.Lock()
		defer mu.Unlock()
		if all := known[host]; all != nil {
			return all, nil
		}
		all, err := c.configured(host, credentials)
		if err == nil {
			known[host] = all
		}
		return all, err
	}
}

func (c *Client) configured(host string, credentials func(string) (string, string, error)) ([]docker.RegistryHost, error) {
	faults := &faults{}
	options := config.HostOptions{
		HostDir:      func(host string) (string, error) { return hostDir(c.cfg.CertsDirs, host) },
		Credentials:  credentials,
		UpdateClient: limitTime,
	}
	if c.insecure(host) {
		// As Docker does: TLS with any certificate, else plain HTTP.
		options.DefaultScheme = "http"
		options.DefaultTLS = &tls.Config{InsecureSkipVerify: true} // The configuration names it, see Config.Insecure.
	}
	all, err := config.ConfigureHosts(faults.listen(), options)(host)
	if err = errors.Join(err, faults.err); err != nil {
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("configuration of registry %s: %s: correct it", host, OneLine(err)))
	}
	wrapped := map[*http.Client]bool{} // Hosts without settings share one client.
	for i, h := range all {
		if !wrapped[h.Client] {
			wrapped[h.Client] = true
			h.Client.Transport = &failFast{next: h.Client.Transport, spare: i < len(all)-1}
		}
	}
	return all, nil
}

// faults collects the errors that containerd's reader of hosts.toml only logs.
type faults struct{ err error }

func (f *faults) listen() context.Context {
	logger := &logrus.Logger{Out: io.Discard, Formatter: &logrus.TextFormatter{}, Level: logrus.ErrorLevel, Hooks: logrus.LevelHooks{}}
	logger.AddHook(f)
	return log.WithLogger(context.Background(), logrus.NewEntry(logger))
}

// Levels implements logrus.Hook.
func (f *faults) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel} }

// Fire implements logrus.Hook.
func (f *faults) Fire(e *logrus.Entry) error {
	cause, _ := e.Data[logrus.ErrorKey].(error)
	f.err = errors.Join(f.err, fmt.Errorf("%s: %w", e.Message, cause))
	return nil
}

// hostDir finds the folder for a registry. A folder with the registry's name has precedence over
// the folder for all registries.
func hostDir(roots []string, host string) (string, error) {
	fallback := ""
	for _, root := range roots {
		dir, err := config.HostDirFromRoot(root)(host)
		switch {
		case errdefs.IsNotFound(err):
		case err != nil:
			return "", err
		case filepath.Base(dir) != anyHost:
			return dir, nil
		case fallback == "":
			fallback = dir
		}
	}
	if fallback == "" {
		return "", errdefs.ErrNotFound
	}
	return fallback, nil
}

// limitTime sets the time limits of a client, so that a registry that does not answer costs little
// time. It also makes the client use the proxies of the environment. containerd calls it for each
// client that it makes.
func limitTime(client *http.Client) error {
	t, ok := client.Transport.(*http.Transport)
	if !ok {
		return nil
	}
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return dial(ctx, network, address)
	}
	t.Proxy = http.ProxyFromEnvironment
	t.TLSHandshakeTimeout = 2 * dialTimeout
	t.ResponseHeaderTimeout = answerTimeout
	t.ForceAttemptHTTP2 = true
	t.MaxIdleConnsPerHost = idleConns
	return nil
}

// insecure reports whether the configuration names a registry as insecure, by name or by network.
// containerd itself treats registries on localhost as insecure.
func (c *Client) insecure(host string) bool {
	if slices.Contains(c.cfg.Insecure, host) {
		return true
	}
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	var nets []netip.Prefix
	for _, entry := range c.cfg.Insecure {
		if p, err := netip.ParsePrefix(entry); err == nil {
			nets = append(nets, p)
		}
	}
	if len(nets) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		return slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
	})
}

// failFast wraps errors of a connection in unreachable, so that containerd's resolver does not try
// the host five times, and then again with another path. If the resolver has another host to try,
// failFast also answers all later requests to a host that has failed with the same error. A
// failFast serves one pull.
type failFast struct {
	next  http.RoundTripper
	spare bool // the resolver tries another host after this one

	mu   sync.Mutex // guards gone
	gone map[string]error
}

// RoundTrip implements http.RoundTripper.
func (f *failFast) RoundTrip(req *http.Request) (*http.Response, error) {
	f.mu.Lock()
	err := f.gone[req.URL.Host]
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	resp, err := f.next.RoundTrip(req)
	if err == nil || req.Context().Err() != nil {
		return resp, err
	}
	err = unreachable{err}
	if f.spare {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.gone == nil {
			f.gone = map[string]error{}
		}
		f.gone[req.URL.Host] = err
	}
	return nil, err
}

// unreachable hides the type of an error from containerd's resolver, which would try again after a
// timeout or an unexpected end of the connection.
type unreachable struct{ cause error }

func (u unreachable) Error() string { return u.cause.Error() }
func (u unreachable) Is(target error) bool {
	return target == errdefs.ErrUnavailable
}

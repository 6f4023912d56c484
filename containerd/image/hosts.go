//go:build linux

package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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

// anyHost is the folder for registries without one of their own.
const anyHost = "_default"

// hosts says how registries are spoken to: mirrors first, with which certificates, and whether without TLS. It reads the
// folders once for each registry: it serves one pull.
func (s *Store) hosts(credentials func(string) (string, string, error)) docker.RegistryHosts {
	var mu sync.Mutex // guards known
	known := map[string][]docker.RegistryHost{}
	return func(host string) ([]docker.RegistryHost, error) {
		mu.Lock()
		defer mu.Unlock()
		if all := known[host]; all != nil {
			return all, nil
		}
		all, err := s.configured(host, credentials)
		if err == nil {
			known[host] = all
		}
		return all, err
	}
}

func (s *Store) configured(host string, credentials func(string) (string, string, error)) ([]docker.RegistryHost, error) {
	faults := &faults{}
	options := config.HostOptions{
		HostDir:      func(host string) (string, error) { return hostDir(s.cfg.CertsDirs, host) },
		Credentials:  credentials,
		UpdateClient: impatient,
	}
	if s.insecure(host) {
		// As Docker: TLS whoever answers, else none.
		options.DefaultScheme = "http"
		options.DefaultTLS = &tls.Config{InsecureSkipVerify: true} // asked for by name, see Config.Insecure
	}
	all, err := config.ConfigureHosts(faults.listen(), options)(host)
	if err = errors.Join(err, faults.err); err != nil {
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("configuration of registry %s: %s: correct it", host, oneLine(err)))
	}
	wrapped := map[*http.Client]bool{} // hosts without settings of their own share one
	for i, h := range all {
		if !wrapped[h.Client] {
			wrapped[h.Client] = true
			h.Client.Transport = &firm{next: h.Client.Transport, spare: i < len(all)-1}
		}
	}
	return all, nil
}

// faults collects what containerd's reader of hosts.toml only logs.
type faults struct{ err error }

func (f *faults) listen() context.Context {
	logger := &logrus.Logger{Out: discard{}, Formatter: &logrus.TextFormatter{}, Level: logrus.ErrorLevel, Hooks: logrus.LevelHooks{}}
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

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// hostDir finds a registry's folder: one of its own before one for all.
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

// impatient bounds what a registry that is gone costs; it is called for each client that is made. Proxies are those of
// the environment.
func impatient(client *http.Client) error {
	t, ok := client.Transport.(*http.Transport)
	if !ok {
		return nil
	}
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialPatience)
		defer cancel()
		return dial(ctx, network, address)
	}
	t.Proxy = http.ProxyFromEnvironment
	t.TLSHandshakeTimeout = 2 * dialPatience
	t.ResponseHeaderTimeout = answerPatience
	t.ForceAttemptHTTP2 = true
	t.MaxIdleConnsPerHost = parallel
	return nil
}

// insecure says which registries need no TLS, and no certificate that anybody vouches for. Those on localhost are none of
// its business: containerd's rules know them.
func (s *Store) insecure(host string) bool {
	if slices.Contains(s.cfg.Insecure, host) {
		return true
	}
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	var nets []netip.Prefix
	for _, entry := range s.cfg.Insecure {
		if p, err := netip.ParsePrefix(entry); err == nil {
			nets = append(nets, p)
		}
	}
	if len(nets) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialPatience)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		return slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
	})
}

// firm makes a registry that could not be reached an answer: containerd's resolver would try it five times, and then
// again by another path. One that has a successor is not tried again at all. It serves one pull.
type firm struct {
	next  http.RoundTripper
	spare bool // another host can give the same

	mu   sync.Mutex // guards gone
	gone map[string]error
}

// RoundTrip implements http.RoundTripper.
func (f *firm) RoundTrip(req *http.Request) (*http.Response, error) {
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

// unreachable hides from the resolver that an error was a timeout or an early end.
type unreachable struct{ cause error }

func (u unreachable) Error() string { return u.cause.Error() }
func (u unreachable) Is(target error) bool {
	return target == errdefs.ErrUnavailable
}

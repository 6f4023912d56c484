package health

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	swarmv1 "swarm/proto/swarm/v1"
)

// outputLimit is how many bytes of a failed check's output the user sees.
const outputLimit = 256

// Output keeps the first 256 bytes that are written to it. Several goroutines may write to it, so
// it can serve as stdout and stderr of a command.
type Output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

// Write implements io.Writer. It never fails.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if room := outputLimit - o.buf.Len(); room > 0 {
		o.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// String returns the output as one line.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(strings.Fields(o.buf.String()), " ")
}

// Check returns ErrInvalidArgument if a health check cannot be run: its kind is not known, or it
// does not say what to check.
func Check(c *swarmv1.HealthConfig) error {
	test := c.GetTest()
	if !Enabled(c) {
		return nil
	}
	need := map[string]int{"CMD": 2, "CMD-SHELL": 2, "HTTP": 2, "TCP": 2, "GRPC": 2}
	n, known := need[strings.ToUpper(test[0])]
	if !known {
		return fmt.Errorf("health check kind %q is not known: use CMD, CMD-SHELL, HTTP, TCP, GRPC or NONE: %w", test[0], errdefs.ErrInvalidArgument)
	}
	if len(test) < n {
		return fmt.Errorf("health check %s does not say what to check: %w", test[0], errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkOf returns the function that runs the check once.
func checkOf(test []string, target Target) func(context.Context) error {
	if err := Check(&swarmv1.HealthConfig{Test: test}); err != nil {
		return func(context.Context) error { return err }
	}
	dial := dialer(target.Netns)
	switch strings.ToUpper(test[0]) {
	case "CMD":
		return command(target, test[1:])
	case "CMD-SHELL":
		shell := target.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return command(target, append(slices.Clone(shell), strings.Join(test[1:], " ")))
	case "HTTP":
		return get(dial, test[1])
	case "TCP":
		return connect(dial, test[1])
	default:
		service := ""
		if len(test) > 2 {
			service = test[2]
		}
		return serving(dial, test[1], service)
	}
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// command returns a check that passes if a command in the container ends with 0.
func command(target Target, args []string) func(context.Context) error {
	return func(ctx context.Context) error {
		var out Output
		code, err := target.Exec(ctx, args, &out)
		switch {
		case errdefs.IsUnavailable(err):
			return fmt.Errorf("run %s: %w: %w", args[0], errNotRun, err)
		case err != nil:
			return fmt.Errorf("run %s: %w", args[0], err)
		case code != 0 && out.String() != "":
			return fmt.Errorf("%s ended with %d: %s", args[0], code, &out)
		case code != 0:
			return fmt.Errorf("%s ended with %d", args[0], code)
		}
		return nil
	}
}

// get returns a check that passes if the server answers with a status from 200 to 399, as in
// Kubernetes. It does not follow redirects, because they may lead out of the container.
func get(dial dialFunc, address string) func(context.Context) error {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return fmt.Errorf("health check address %q: %w", address, errdefs.ErrInvalidArgument)
		}
		req.Header.Set("User-Agent", "swarm-health")
		resp, err := client.Do(req)
		if err != nil {
			if u, ok := err.(*url.Error); ok {
				err = u.Err
			}
			return fmt.Errorf("GET %s: %w", address, err)
		}
		_, _ = io.CopyN(io.Discard, resp.Body, 1<<10) // Let the server finish a short answer.
		_ = resp.Body.Close()
		if resp.StatusCode < 200 || resp.StatusCode > 399 {
			return fmt.Errorf("GET %s: %d %s", address, resp.StatusCode, http.StatusText(resp.StatusCode))
		}
		return nil
	}
}

// connect returns a check that passes if a TCP connection can be opened.
func connect(dial dialFunc, address string) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := dial(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// serving returns a check that passes if the server answers SERVING in gRPC's health protocol.
func serving(dial dialFunc, address, service string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dial(ctx, "tcp", addr) }))
		if err != nil {
			return fmt.Errorf("health check address %q: %w", address, err)
		}
		defer conn.Close()
		resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil {
			return fmt.Errorf("gRPC health of %s: %w", address, err)
		}
		if resp.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			return fmt.Errorf("gRPC health of %s: %s", address, resp.Status)
		}
		return nil
	}
}

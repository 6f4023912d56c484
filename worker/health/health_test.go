package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"

	swarmv1 "swarm/proto/swarm/v1"
)

func secs(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }

// scripted answers checks by the number of seconds since it was created.
func scripted(cfg *swarmv1.HealthConfig, well func(since time.Duration) bool) *Prober {
	began := time.Now()
	cfg.Test = []string{"CMD", "check"}
	return New(cfg, Target{Exec: func(context.Context, []string, *Output) (int, error) {
		if well(time.Since(began)) {
			return 0, nil
		}
		return 1, nil
	}})
}

func TestProber_When(t *testing.T) {
	always := func(v bool) func(time.Duration) bool { return func(time.Duration) bool { return v } }
	for _, c := range []struct {
		name    string
		cfg     *swarmv1.HealthConfig
		well    func(time.Duration) bool
		healthy bool
		from    time.Duration
		to      time.Duration
	}{
		{"at once", &swarmv1.HealthConfig{}, always(true), true, 0, 0},
		{"soon", &swarmv1.HealthConfig{}, func(d time.Duration) bool { return d >= 300*time.Millisecond }, true, 300 * time.Millisecond, time.Second},
		{"never", &swarmv1.HealthConfig{Interval: secs(10), Retries: 2}, always(false), false, 20 * time.Second, 31 * time.Second},
		{"within the start period", &swarmv1.HealthConfig{Interval: secs(10), Retries: 1, StartPeriod: secs(60), StartInterval: secs(2)}, func(d time.Duration) bool { return d >= 50*time.Second }, true, 50 * time.Second, 53 * time.Second},
		{"after the start period", &swarmv1.HealthConfig{Interval: secs(10), Retries: 1, StartPeriod: secs(60)}, func(d time.Duration) bool { return d >= 200*time.Second }, false, 60 * time.Second, 71 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				err := scripted(c.cfg, c.well).UntilHealthy(context.Background())
				if took := time.Since(began); (err == nil) != c.healthy || took < c.from || took > c.to {
					t.Errorf("after %s: %v; want healthy %v within %s..%s", took, err, c.healthy, c.from, c.to)
				}
			})
		})
	}
}

func TestProber_OneFailureIsForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := scripted(&swarmv1.HealthConfig{Interval: secs(10), Retries: 3}, func(d time.Duration) bool {
			return d < 95*time.Second && d != 30*time.Second && d != 40*time.Second
		})
		if err := p.UntilHealthy(context.Background()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err := p.UntilUnhealthy(context.Background())
		if took := time.Since(began); took != 120*time.Second || err == nil || !strings.Contains(err.Error(), "unhealthy: check ended with 1") {
			t.Errorf("sick after %s: %v", took, err)
		}
	})
}

func TestProber_SlowCheckFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(&swarmv1.HealthConfig{Test: []string{"CMD", "x"}, Interval: secs(1), Timeout: secs(2), Retries: 1}, Target{
			Exec: func(ctx context.Context, _ []string, _ *Output) (int, error) { <-ctx.Done(); return 0, ctx.Err() },
		})
		if err := p.UntilHealthy(context.Background()); err == nil || !strings.Contains(err.Error(), "longer than 2s") {
			t.Errorf("err = %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := p.UntilUnhealthy(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after the end of ctx: %v", err)
		}
	})
}

func TestChecks(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ok" {
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	defer web.Close()
	webAddr := web.Listener.Addr().String()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hs := grpchealth.NewServer()
	hs.SetServingStatus("up", grpc_health_v1.HealthCheckResponse_SERVING)
	hs.SetServingStatus("down", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	srv := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, hs)
	go func() { _ = srv.Serve(ln) }()
	defer srv.Stop()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	target := Target{Exec: func(_ context.Context, command []string, out *Output) (int, error) {
		fmt.Fprintf(out, "ran %q\n", command)
		return len(command), nil
	}}
	for _, c := range []struct {
		test []string
		want string // part of the error; empty: healthy
	}{
		{[]string{"CMD", "x"}, `x ended with 1: ran ["x"]`},
		{[]string{"CMD-SHELL", "a || b"}, `"/bin/sh" "-c" "a || b"`},
		{[]string{"HTTP", "http://" + webAddr + "/ok"}, ""},
		{[]string{"HTTP", webAddr + "/ok"}, ""},
		{[]string{"HTTP", webAddr + "/"}, "418"},
		{[]string{"TCP", webAddr}, ""},
		{[]string{"TCP", closed.Addr().String()}, "refused"},
		{[]string{"GRPC", ln.Addr().String()}, ""},
		{[]string{"GRPC", ln.Addr().String(), "up"}, ""},
		{[]string{"GRPC", ln.Addr().String(), "down"}, "NOT_SERVING"},
		{[]string{"TELEPATHY", "x"}, "not known"},
		{[]string{"HTTP"}, "does not say what"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := checkOf(c.test, target)(ctx)
		cancel()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.test, err, c.want)
		}
	}
	if err := Check(&swarmv1.HealthConfig{Test: []string{"NOPE"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Check: %v", err)
	}
}

// In a new network namespace nothing listens, and even the loopback device is down.
func TestDialer_EntersTheNamespace(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ready, done := make(chan string), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the thread ends with the namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ready <- ""
			return
		}
		ready <- fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		<-done
	}()
	path := <-ready
	defer close(done)
	if path == "" {
		t.Skip("making a network namespace needs root")
	}
	if c, err := dialer(path)(t.Context(), "tcp", ln.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("dialled the host's listener from another namespace")
	}
	c, err := dialer("")(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if _, err := dialer("/nonexistent")(t.Context(), "tcp", ln.Addr().String()); err == nil {
		t.Error("dialled from a namespace that does not exist")
	}
}

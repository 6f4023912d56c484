package daemon_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"swarm/cli/clitest"
	"swarm/cli/daemon"
)

func TestDaemonFlags(t *testing.T) {
	var got daemon.Options
	r := clitest.Run{Daemon: func(_ context.Context, o daemon.Options) error { got = o; return nil }}
	if res := r.Run(t, "daemon", "--state-dir", "/a/", "--run-dir", "/b", "--hostname", "h", "--log-level", "debug", "--cgroup-parent", "/x",
		"--insecure-registry", "r:5000", "--insecure-registry", "10.0.0.0/8", "--registry-certs-dir", "/certs",
		"--peer-bandwidth", "50MB/s", "--disk-clean-start", "90", "--image-max-age", "0", "--removed-logs-max-size", "5g", "--raft-timeout", "2s"); res.Code != 0 {
		t.Fatalf("got %+v", res)
	}
	want := daemon.Options{
		StateDir: "/a", RunDir: "/b", Hostname: "h", LogLevel: "debug", LogFormat: "text", CgroupParent: "/x",
		InsecureRegistries: []string{"r:5000", "10.0.0.0/8"}, RegistryCertsDirs: []string{"/certs"},
		PeerBandwidth: 50_000_000, CleanStart: 90, CleanStop: 75, LogsAge: 168 * time.Hour, LogsSize: 5 << 30, RaftTimeout: 2 * time.Second, MetricsAddr: daemon.DefaultMetricsAddr,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
	labels := map[string]string{"disk": "ssd", "note": "a=b", "empty": "", "ort": "Zürich"}
	res := r.Run(t, "daemon", "--label", "disk=ssd", "--label", "disk=ssd", "--label", "note=a=b", "--label", "empty=", "--label", "ort=Zürich")
	if diff := cmp.Diff(labels, got.Labels); res.Code != 0 || diff != "" {
		t.Errorf("labels: got %+v, (-want +got):\n%s", res, diff)
	}
	clitest.Refused(t, "two values", r.Run(t, "daemon", "--label", "disk=ssd", "--label", "disk=hdd"), "disk=ssd is given too: use each key once")
	clitest.Refused(t, "blank", r.Run(t, "daemon", "--label", "a b=c"), "the key has blanks")
	clitest.Refused(t, "control character", r.Run(t, "daemon", "--label", "a=\x1b[2J"), "cannot be shown in one line")
	clitest.Refused(t, "reserved", r.Run(t, "daemon", "--label", "io.docker.x=1"), "reserved, as in Docker")
	clitest.Refused(t, "rate", r.Run(t, "daemon", "--peer-bandwidth", "fast"), "such as 50MB/s")
	clitest.Refused(t, "silence", r.Run(t, "daemon", "--raft-timeout", "1ms"), "less than 100ms")
	clitest.Refused(t, "age of logs", r.Run(t, "daemon", "--removed-logs-max-age", "0"), "give a duration such as 168h")
	clitest.Refused(t, "size of logs", r.Run(t, "daemon", "--removed-logs-max-size", "0"), "such as 1g")
	clitest.Refused(t, "marks", r.Run(t, "daemon", "--disk-clean-start", "60"), "the first not less than the second")
	clitest.Refused(t, "metrics for all", r.Run(t, "daemon", "--metrics-addr", ":9377"), "0.0.0.0:9377 if that is meant")
	clitest.Refused(t, "metrics", r.Run(t, "daemon", "--metrics-addr", "9377"), "not ADDRESS:PORT")
	if res := r.Run(t, "daemon", "--metrics-addr", "off"); res.Code != 0 || got.MetricsAddr != "" || !got.MetricsAsked {
		t.Errorf("no metrics: got %+v, %+v", res, got)
	}
	clitest.Refused(t, "scheme", r.Run(t, "daemon", "--insecure-registry", "http://r:5000"), "leave the scheme away, as in r:5000")
	clitest.Refused(t, "path", r.Run(t, "daemon", "--insecure-registry", "r/x"), "neither HOST[:PORT] nor a network")
	clitest.Refused(t, "relative", r.Run(t, "daemon", "--state-dir", "x"), `--state-dir "x" is not an absolute path`)
	clitest.Refused(t, "parent", r.Run(t, "daemon", "--cgroup-parent", "x"), "use /NAME or NAME.slice")
	clitest.Refused(t, "driver", r.Run(t, "daemon", "--cgroup-driver", "systemd", "--cgroup-parent", "/x"), "use NAME.slice")
	clitest.Refused(t, "slice", r.Run(t, "daemon", "--cgroup-driver", "cgroupfs", "--cgroup-parent", "x.slice"), "use /NAME")
	clitest.Refused(t, "long", r.Run(t, "daemon", "--run-dir", "/"+strings.Repeat("x", 100)), "too long for sockets")
	clitest.Refused(t, "level", r.Run(t, "daemon", "--log-level", "loud"), "use one of debug, info, warn, error")
	r.Daemon = func(context.Context, daemon.Options) error {
		return errors.New("state folder /a is locked by process 7")
	}
	clitest.Refused(t, "fails", r.Run(t, "daemon"), "Error: state folder /a is locked by process 7")
}

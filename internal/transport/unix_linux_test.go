package transport

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func TestUnix_LocalCallersAreKnown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "swarm.sock")
	seen := make(chan AuthInfo, 1)
	none := must[*grpc.ClientConn](t)(DialUnix(path))
	if err := check(t, none); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "swarm is not running on this host") {
		t.Errorf("no socket: got %v", err)
	}
	_ = none.Close()

	ln := must[net.Listener](t)(ListenUnix(path, "no-such-group"))
	if info := must[os.FileInfo](t)(os.Stat(path)); info.Mode().Perm() != 0o600 {
		t.Errorf("without a group the socket has mode %v", info.Mode())
	}
	server := grpc.NewServer(ServerOptions()...)
	healthpb.RegisterHealthServer(server, probe{seen: seen})
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	defer func() { server.Stop(); <-served }()

	cc := must[*grpc.ClientConn](t)(DialUnix(path))
	defer cc.Close()
	if err := check(t, cc); err != nil {
		t.Fatal(err)
	}
	if info := <-seen; info.Local == nil || int(info.Local.UID) != os.Getuid() || int(info.Local.PID) != os.Getpid() || info.Anonymous() {
		t.Errorf("the server sees %v, %+v", info, info.Local)
	}
	if _, err := ListenUnix(path, ""); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second daemon: got %v", err)
	}
}

func TestListenUnix_Paths(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	stale := must[net.Listener](t)(net.Listen("unix", path))
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = stale.Close()
	ln, err := ListenUnix(path, "root")
	if err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	if info := must[os.FileInfo](t)(os.Stat(path)); info.Mode().Perm() != 0o660 {
		t.Errorf("with a group the socket has mode %v", info.Mode())
	}
	_ = ln.Close()
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(path, ""); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("over a file: got %v", err)
	}
	if _, err := ListenUnix(filepath.Join(dir, strings.Repeat("x", 200)), ""); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a long path: got %v", err)
	}
}

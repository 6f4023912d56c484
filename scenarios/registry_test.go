package scenarios

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// registry HOST [USER:PASSWORD] starts a registry on a host. It has its own certificate, and
// requires a login if a user is named. The verb sets REGISTRY to host:port and writes the
// authority's certificate to certs.d, in Docker's layout. A second call replaces the registry by an
// empty one.
func cmdRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: registry HOST [USER:PASSWORD]")
	}
	h, err := playground(ts).Host(args[0])
	ts.Check(err)
	address := net.JoinHostPort(h.Address.String(), "5000")
	dir := filepath.Join(ts.Getenv("WORK"), "certs.d", address)
	ts.Check(os.MkdirAll(dir, 0o755))
	argv := []string{"-listen", address, "-tls", h.Address.String(), "-ca", filepath.Join(dir, "ca.crt")}
	if len(args) == 2 {
		argv = append(argv, "-user", args[1])
	}
	s := sceneOf(ts)
	for _, stop := range s.stops {
		stop()
	}
	cmd := exec.Command(ts.Getenv("REGISTRY_PROGRAM"), argv...)
	ts.Check(playground(ts).Do(args[0], cmd.Start))
	s.stops = []func(){func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // Its exit status does not matter.
	}}
	ctx, cancel := context.WithDeadline(context.Background(), s.deadline)
	defer cancel()
	for {
		var conn net.Conn
		err := playground(ts).Do(args[0], func() (err error) {
			conn, err = net.DialTimeout("tcp", address, time.Second)
			return err
		})
		if err == nil {
			ts.Check(conn.Close())
			break
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("the registry does not answer: %v", err)
		case <-time.After(50 * time.Millisecond): // the interval of the poll
		}
	}
	ts.Setenv("REGISTRY", address)
}

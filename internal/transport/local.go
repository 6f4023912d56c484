package transport

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"syscall"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"swarm/internal/codec"
)

// DialUnix returns a connection for RPCs to the daemon of this host. The caller closes it. Calls
// fail with errdefs.ErrUnavailable if no daemon listens at path, and with
// errdefs.ErrPermissionDenied if the user may not open the socket.
func DialUnix(path string) (*grpc.ClientConn, error) {
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
			return nil, errdefs.ErrUnavailable.WithMessage("swarm is not running on this host (nothing listens on " + path + "): start it with `swarm init` or `swarm join`, or name another host with -H")
		case errors.Is(err, fs.ErrPermission):
			return nil, errdefs.ErrPermissionDenied.WithMessage("no permission to use " + path + ": run as root, or as a member of the socket's group")
		}
		return conn, err
	}
	// The file mode of the socket protects this connection, so it needs no TLS.
	options := append(clientOptions(), grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer), grpc.ForceCodecV2(codec.Codec{Trusted: true})))
	return grpc.NewClient("passthrough:///localhost", options...)
}

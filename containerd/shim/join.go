//go:build linux

package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/shim"

	"swarm/containerd/layout"
	"swarm/internal/pause"
)

// Start starts a shim for a container. If the shim of the container's group runs already, Start
// returns the address of that shim.
//
// containerd's own code gives the shim of the group a tenth of a second to accept a connection. On
// a busy host it therefore takes a live shim for dead, removes its socket and starts a second shim.
// Both shims work until containerd is restarted. Then containerd asks the second shim for the
// containers of the first. The second does not know them, and containerd kills them as leaked.
func (r shimManager) Start(ctx context.Context, opts *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	address, err := groupAddress(ctx, opts)
	if err != nil {
		return nil, err
	}
	if address != "" {
		runs, err := answers(ctx, strings.TrimPrefix(address, "unix://"))
		if err != nil {
			return nil, fmt.Errorf("join the group's shim: %w", err)
		}
		if runs {
			return &bootapi.BootstrapResult{Version: 3, Protocol: "ttrpc", Address: address}, nil
		}
	}
	return r.Shim.Start(ctx, opts)
}

// annotation returns an annotation of a bundle's container, or "" if the container does not have
// it.
func annotation(bundle, name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return "", err
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(text, &spec); err != nil {
		return "", fmt.Errorf("read config.json: %w", err)
	}
	return spec.Annotations[name], nil
}

// groupAddress returns the address of the shim of the container's group. The container is that of
// the bundle in the working folder. The address is empty if the container has no group.
func groupAddress(ctx context.Context, opts *bootapi.BootstrapParams) (string, error) {
	group, err := annotation(".", layout.GroupAnnotation)
	if err != nil || group == "" {
		return "", err
	}
	dir := opts.GetSocketDir()
	if dir == "" {
		dir = filepath.Join(defaults.DefaultStateDir, "s")
	}
	return shim.CreateSocketAddress(ctx, dir, opts.GetContainerdGrpcAddress(), group, false)
}

const (
	// answerTimeout is how long a live shim may take to accept a connection.
	answerTimeout = 30 * time.Second
	// answerRetry is the pause before a shim whose queue of connections is full is asked again.
	answerRetry = 20 * time.Millisecond
)

// answers reports whether a process listens on a socket. It returns false only if the kernel's
// answer proves that no process listens. For any other answer it returns an error.
func answers(ctx context.Context, path string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			return true, conn.Close()
		case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
			return false, nil
		case !errors.Is(err, syscall.EAGAIN):
			return false, err
		}
		if pause.For(ctx, answerRetry) != nil {
			return false, err
		}
	}
}

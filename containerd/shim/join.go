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

// Start starts a shim, unless the one of the container's group runs, which then serves this
// container too.
//
// containerd's own start gives that one a tenth of a second to take a connection, and on a busy
// host takes it for dead: it removes its socket and starts a second shim in its place. Both work
// until the runtime is started again. Then the containers of the first are asked for at the second,
// which does not know them, and they are killed as leaked.
func (r reaper) Start(ctx context.Context, opts *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
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

// annotation reads an annotation of the container of a bundle; "" if it has none.
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

// groupAddress is where the shim of the group listens whose container's bundle is the working
// folder; empty: the container has no group.
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
	// answerPatience bounds how long a shim that lives may take to accept a connection.
	answerPatience = 30 * time.Second
	// answerEvery is how often one whose queue of connections is full is asked again.
	answerEvery = 20 * time.Millisecond
)

// answers tells whether somebody listens on a socket. Only what says so for certain counts as a no.
func answers(ctx context.Context, path string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
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
		if pause.For(ctx, answerEvery) != nil {
			return false, err
		}
	}
}

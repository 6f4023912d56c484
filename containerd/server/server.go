//go:build linux

// Package server is the containerd that swarm carries: the server behind `swarm runtime`, a process
// that outlives the daemon.
//
// It owns the containerd root and state folders of one node, and the lock on them. It returns
// ErrAlreadyExists if another process serves the root folder. It uses no folder of another
// containerd, such as /run/containerd, /etc/containerd and /opt/containerd. Containers and their
// shims run on when the server stops or is killed, and the next server finds them again.
//
// cmd calls Run, once in a process, because Run sets the PATH, the log level and the decompression
// of layers for the whole process. Run has a goroutine for each function that runs beside the
// server; all others are those of containerd.
package server

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	containerd "github.com/containerd/containerd/v2/cmd/containerd/server"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"swarm/containerd/inflate"
	"swarm/containerd/layout"
	"swarm/containerd/lock"
	"swarm/containerd/tempmount"
)

// shimLoadTimeout is how long a shim may take to answer a containerd that finds it at its start.
// containerd kills a shim that takes longer, with its containers. Its default of 5 s is too short
// for a host that starts many services at the same time.
const shimLoadTimeout = "60s"

// Run serves until ctx ends, then stops without touching any container. The functions in beside run
// at the same time, from the moment when this process holds the lock of the root folder, so that no
// two processes run them; Run waits for them. ErrInvalidArgument: a path is not valid.
// ErrAlreadyExists: another process serves the root folder.
func Run(ctx context.Context, cfg Config, beside ...func(context.Context)) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	if err := log.SetLevel(cmp.Or(cfg.LogLevel, defaultLogLevel)); err != nil {
		return fmt.Errorf("log level %q: %w: %w", cfg.LogLevel, err, errdefs.ErrInvalidArgument)
	}
	if err := prepareFolders(cfg); err != nil {
		return err
	}
	held, err := lock.Acquire(layout.Lock(cfg.Root))
	if err != nil {
		return fmt.Errorf("serve %s: %w", cfg.Root, err)
	}
	defer held.Release()
	ctx, stop := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer stop()
	for _, run := range beside {
		others.Go(func() { run(ctx) })
	}

	// containerd and its shims look for programs in PATH. The build's own programs come first.
	if err := os.Setenv("PATH", withFirst(cfg.BinDir, os.Getenv("PATH"))); err != nil {
		return fmt.Errorf("set PATH: %w", err)
	}
	err = tempmount.Use(filepath.Join(cfg.Root, "tmpmounts"), func(err error) {
		log.G(ctx).WithError(err).Warn("start containerd")
	})
	if err != nil {
		return err
	}

	diff.RegisterProcessor(inflate.Processor)
	srv, err := containerd.New(ctx, containerdConfig(cfg))
	if err != nil {
		return fmt.Errorf("set up containerd in %s: %w", cfg.Root, err)
	}
	defer srv.Stop()
	if err := srv.Start(ctx); err != nil {
		return fmt.Errorf("serve containerd on %s: %w", cfg.Address, err)
	}
	srv.Wait()
	<-ctx.Done()
	return nil
}

func prepareFolders(cfg Config) error {
	if err := os.MkdirAll(filepath.Dir(cfg.Address), 0o711); err != nil {
		return fmt.Errorf("runtime address %s: %w", cfg.Address, err)
	}
	if err := containerd.CreateTopLevelDirectories(&srvconfig.Config{Root: cfg.Root, State: cfg.State}); err != nil {
		return fmt.Errorf("runtime folders: %w", err)
	}
	for _, dir := range []string{layout.Exits(cfg.State), layout.ShimSockets(cfg.State), filepath.Join(cfg.Root, "tmpmounts")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("runtime folder: %w", err)
		}
	}
	return nil
}

func containerdConfig(cfg Config) *srvconfig.Config {
	return &srvconfig.Config{
		Version: 4,
		Root:    cfg.Root,
		State:   cfg.State,
		// containerd must not start without these.
		RequiredPlugins: []string{
			"io.containerd.content.v1.content",
			"io.containerd.metadata.v1.bolt",
			"io.containerd.runtime.v2.task",
			"io.containerd.grpc.v1.tasks",
			"io.containerd.server.v1.grpc",
			"io.containerd.server.v1.ttrpc",
		},
		DisabledPlugins: []string{
			"io.containerd.server.v1.grpc-tcp",
			"io.containerd.metrics.v1.grpc-prometheus",
			"io.containerd.metrics.v1.grpc-otel",
		},
		Timeouts: map[string]string{
			"io.containerd.timeout.shim.load": shimLoadTimeout,
		},
		Plugins: map[string]any{
			"io.containerd.server.v1.grpc":  map[string]any{"address": cfg.Address},
			"io.containerd.server.v1.ttrpc": map[string]any{"address": cfg.Address + ".ttrpc"},
			"io.containerd.shim.v1.manager": map[string]any{"socket_dir": layout.ShimSockets(cfg.State)},
		},
	}
}

// withFirst returns the search path with dir in front.
func withFirst(dir, path string) string {
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	if path == dir || strings.HasPrefix(path, dir+":") {
		return path
	}
	return dir + ":" + path
}

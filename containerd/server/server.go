//go:build linux

// Package server is the containerd that swarm carries: the server behind `swarm
// runtime`, a process of its own that outlives the daemon.
//
// It owns the containerd root and state folders of one node, and the lock that
// says so. It refuses to share a root, and it touches no folder that another
// containerd uses: no /run/containerd, no /etc/containerd, no /opt/containerd.
// Containers and their shims are not its children in any way that matters: they
// go on when it stops or is killed, and the next one finds them again.
//
// cmd calls Run, once in a process: it sets the process's PATH and log level, and how
// layers are decompressed.
// The goroutines are containerd's.
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
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"swarm/containerd/inflate"
	"swarm/containerd/layout"
	"swarm/containerd/lock"
)

// shimLoadTimeout is how long a shim may take to answer a containerd that finds
// it at start. A shim that answers later is deleted by force, and its containers
// with it; containerd's own 5 s is too short for a host that is starting
// everything at once.
const shimLoadTimeout = "60s"

// Run serves until ctx is done, then stops without touching any container. It
// returns ErrInvalidArgument for paths it cannot use and ErrAlreadyExists when
// another process serves the same root. What is to run beside it begins when the
// root is ours, so that no two processes do the same, and is waited for.
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

	// containerd and the shims it starts look for programs here; ours go first.
	if err := os.Setenv("PATH", withFirst(cfg.BinDir, os.Getenv("PATH"))); err != nil {
		return fmt.Errorf("set PATH: %w", err)
	}
	mount.SetTempMountLocation(filepath.Join(cfg.Root, "tmpmounts"))
	if _, err := mount.CleanupTempMounts(0); err != nil {
		log.G(ctx).WithError(err).Warn("temporary mounts of an earlier run remain")
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
		// Without these containerd has no business starting.
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

// withFirst puts dir at the front of a search path.
func withFirst(dir, path string) string {
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	if path == dir || strings.HasPrefix(path, dir+":") {
		return path
	}
	return dir + ":" + path
}

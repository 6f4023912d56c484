package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sync/errgroup"

	"swarm/cli"
	"swarm/install"
	"swarm/internal/footprint"
	"swarm/internal/ident"
	"swarm/internal/logfile"
	"swarm/internal/notify"
	"swarm/node"
)

// runDaemon is the daemon of one host until ctx ends, through upgrades.
func runDaemon(ctx context.Context, o cli.DaemonOptions) error {
	ctx, stop := untilTold(ctx)
	defer stop()
	starter, err := notify.TakeStarter()
	if err != nil {
		return err
	}
	if err := serveDaemon(ctx, o, starter); err != nil || !errors.Is(context.Cause(ctx), errReplaced) {
		return err
	}
	return become(starter)
}

// serveDaemon is the daemon of one host until ctx ends.
func serveDaemon(ctx context.Context, o cli.DaemonOptions, s notify.Starter) error {
	// A daemon outlives its terminal. Caught, not ignored: containers would inherit that.
	ignoreHangups()
	// Nor has it to do with the umask of whoever starts it: users of containers read files that it writes.
	syscall.Umask(0o022)
	o, err := complete(o)
	if err != nil {
		return err
	}
	unlock, err := install.LockState(o.StateDir)
	if err != nil {
		return err
	}
	defer unlock()
	log, closeLog, err := newLog(o)
	if err != nil {
		return err
	}
	defer closeLog()
	if missing := cli.WithoutProfiles(versionInfo()); missing != "" {
		log.Warn(missing)
	}
	machine, err := machineID(o)
	if err != nil {
		return err
	}
	shown, err := listenMetrics(ctx, o, log)
	if err != nil {
		return err
	}
	if shown != nil {
		defer shown.Close()
	}
	h, err := newHost(o, log)
	if err != nil {
		return err
	}
	defer h.close()
	p := &parts{host: h, options: o, machine: machine, log: log, monitor: newMonitor(log)}
	return p.run(ctx, p.newNode(s), shown, s)
}

func (p *parts) newNode(s notify.Starter) *node.Node {
	o := p.options
	return node.New(node.Config{
		StateDir: o.StateDir, RunDir: o.RunDir, Group: o.SocketGroup, Hostname: o.Hostname, MachineID: p.machine,
		Version: versionInfo(), HostChanges: p.host.changes(), ContainerdAddress: p.host.containerdAddress(),
		CgroupDriver: o.CgroupDriver, CgroupVersion: cgroupVersion(),
	}, node.Deps{
		Log: p.log, Bootstrap: p.bootstrap, NewGossip: p.newGossip, NewWorker: p.newWorker, NewManager: p.newManager,
		Clean: p.host.clean, Describe: p.host.describe, CheckNetwork: checkWays,
		Listening: func() {
			if err := s.Tell(notify.Ready); err != nil {
				p.log.Warn("the daemon's notify.Starter is gone", "err", err)
			}
		},
	})
}

// run runs the host and its node until they are told to end, and departs first where the host goes down. shown is where
// metrics are asked for, nil: nowhere.
func (p *parts) run(told context.Context, n *node.Node, shown net.Listener, s notify.Starter) error {
	// What ends a daemon does not end it before its last words.
	life, end := context.WithCancelCause(context.WithoutCancel(told))
	defer end(nil)
	g, ctx := errgroup.WithContext(life)
	g.Go(func() error {
		select {
		case <-told.Done():
			depart(told, n, s, p.log)
			end(context.Cause(told))
		case <-ctx.Done():
		}
		return nil
	})
	g.Go(func() error {
		footprint.Keep(ctx, func() {
			if store := p.store.Load(); store != nil {
				store.Trim()
			}
			footprint.Free()
		})
		return nil
	})
	g.Go(func() error { return p.host.run(ctx) })
	if shown != nil {
		g.Go(func() error { return p.monitor.Serve(ctx, shown) })
	}
	g.Go(func() error {
		if err := p.host.ready(ctx); err != nil {
			return err
		}
		return n.Run(ctx)
	})
	return p.await(ctx, g.Wait)
}

// endGrace is how long the parts of a daemon may take to end. What does not end then hangs in the kernel, in a file system
// that does not answer, and ends with the process.
const endGrace = 10 * time.Second

// await returns what wait does, or, when ctx ended endGrace ago, nothing: the daemon ends without what still runs.
func (p *parts) await(ctx context.Context, wait func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- wait() }() // Left to itself where wait does not return: the process ends.
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(endGrace)
	defer late.Stop()
	select {
	case err := <-ended:
		return err
	case <-late.C:
		p.log.Error("the daemon ends without a part that does not end", "after", endGrace, "cause", context.Cause(ctx))
		return nil
	}
}

func newLog(o cli.DaemonOptions) (*slog.Logger, func(), error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.LogLevel)); err != nil {
		return nil, nil, fmt.Errorf("log level %q: use debug, info, warn or error", o.LogLevel)
	}
	var out io.Writer = os.Stderr
	closeLog := func() {}
	if o.LogFile != "" {
		f, err := logfile.Open(o.LogFile, logfile.Limit, int(os.Stdout.Fd()), int(os.Stderr.Fd()))
		if err != nil {
			return nil, nil, err
		}
		out, closeLog = f, func() { _ = f.Close() }
	}
	options := &slog.HandlerOptions{Level: level}
	if o.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(out, options)), closeLog, nil
	}
	return slog.New(slog.NewTextHandler(out, options)), closeLog, nil
}

// complete fills in what the command line left open.
func complete(o cli.DaemonOptions) (cli.DaemonOptions, error) {
	if o.Hostname == "" {
		name, err := os.Hostname()
		if err != nil {
			return o, fmt.Errorf("the machine's name: %w: give one with --hostname", err)
		}
		o.Hostname = name
	}
	o.CgroupDriver, o.CgroupParent = cgroupOf(o, install.New(install.Config{}).Systemd(), cgroups.Mode() == cgroups.Unified)
	if o.SocketGroup == "" {
		o.SocketGroup = "swarm"
	}
	return o, nil
}

// machineID tells this machine from every other, as far as machines tell themselves apart. The state folder is part of it:
// two daemons on one machine are two hosts.
func machineID(o cli.DaemonOptions) (string, error) {
	own := o.MachineID
	for _, file := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		if own != "" {
			break
		}
		if text, err := os.ReadFile(file); err == nil {
			own = strings.TrimSpace(string(text))
		}
	}
	// systemd writes this word until the first boot is complete (machine-id(5)).
	if own == "" || own == "uninitialized" {
		kept, err := keptMachineID(filepath.Join(o.StateDir, "machine-id"))
		if err != nil {
			return "", err
		}
		own = kept
	}
	// Hashed: the machine's own id is not to be shown to others (machine-id(5)).
	sum := sha256.Sum256([]byte(own + "\x00" + o.StateDir + "\x00swarm"))
	return hex.EncodeToString(sum[:16]), nil
}

// keptMachineID is the id of a machine that has none of its own, as minimal systems have. It must outlive a reboot.
func keptMachineID(file string) (string, error) {
	if text, err := os.ReadFile(file); err == nil && len(text) > 0 {
		return strings.TrimSpace(string(text)), nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	id := ident.NewID()
	return id, os.WriteFile(file, []byte(id+"\n"), 0o600)
}

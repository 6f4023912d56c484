package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sync/errgroup"

	"swarm/adapter/dataplane"
	"swarm/adapter/imagepeer"
	"swarm/adapter/member"
	"swarm/cli/daemon"
	"swarm/containerd"
	"swarm/containerd/binary"
	"swarm/containerd/companion"
	"swarm/containerd/image"
	"swarm/containerd/layout"
	"swarm/containerd/tempmount"
	"swarm/install"
	"swarm/internal/disk"
	"swarm/internal/sysctl"
	"swarm/node"
	"swarm/overlay/bridge"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/simulated"
	"swarm/worker/storage"
)

// orphanTimeout bounds the search for shims and execs of a former daemon.
const orphanTimeout = 10 * time.Second

// host has the parts of a daemon that do not depend on a membership: containers, images, and the
// node's bridge network. Some fields are nil with a simulated runtime; their comments say so.
type host struct {
	options   daemon.Options
	log       *slog.Logger
	companion *companion.Companion // nil with a simulated runtime and with --containerd-address
	client    *client.Client       // nil with a simulated runtime
	bridge    *bridge.Bridge       // nil with a simulated runtime
	store     *image.Store         // nil with a simulated runtime
	disk      *disk.Watch          // nil with a simulated runtime

	runtime interface {
		engine.Runtime
		engine.Executor
	}
	execs  *containerd.Runtime // nil with a simulated runtime
	images engine.ImageStore
	// peers has the nodes of the cluster while this host is a member.
	peers *imagepeer.Peers
}

func newHost(o daemon.Options, log *slog.Logger) (*host, error) {
	h := &host{options: o, log: log, peers: &imagepeer.Peers{}}
	if o.Simulated {
		images := simulated.NewImages()
		h.images = images
		h.runtime = simulated.New(simulated.Config{}, images)
		return h, nil
	}
	if err := sysctl.Raise(sysctl.Record(o.RunDir)); err != nil {
		log.Warn("the kernel's limits that all containers of this host share stay as they are: see swarm doctor", "err", err)
	}
	var err error
	if h.disk, err = disk.NewWatch(o.StateDir, log); err != nil {
		return nil, err
	}
	if err := h.newContainers(); err != nil {
		return nil, err
	}
	b, err := dataplane.NewBridge(o.RunDir, log)
	if err != nil {
		return nil, err
	}
	h.bridge = b
	return h, nil
}

// newContainers builds the container runtime: the embedded containerd, or the client of the one
// that --containerd-address names.
func (h *host) newContainers() error {
	l := h.layout()
	cfg := containerd.Config{
		StateDir: h.options.StateDir, RunDir: h.options.RunDir,
		CgroupParent: h.options.CgroupParent, SystemdCgroup: h.options.CgroupDriver == install.CgroupSystemd,
	}
	address := h.options.ContainerdAddress
	set, err := binary.InstallSelf(l.Bin(), version)
	if err != nil {
		return err
	}
	cfg.Init = set.Program
	h.prune(l, set)
	warn := func(err error) { h.log.Warn("clean the run folder", "err", err) }
	if err := tempmount.Use(filepath.Join(h.options.RunDir, "mounts"), warn); err != nil {
		return err
	}
	if address == "" {
		address = l.Socket()
		cfg.RuncRoot, cfg.Runc, cfg.Build, cfg.Exits = l.RuncRoot(), set.Runc, set.Build, layout.Exits(l.State())
		if h.companion, err = companion.New(companion.Config{Layout: l, Programs: set}, companion.Deps{Log: h.log}); err != nil {
			return err
		}
	}
	if h.client, err = containerd.Connect(address); err != nil {
		return err
	}
	rt, err := containerd.New(cfg, containerd.Deps{Log: h.log, Client: h.client, Room: h.disk.Room})
	if err != nil {
		return err
	}
	h.runtime, h.execs = rt, rt
	h.store, err = image.New(image.Config{Insecure: h.options.InsecureRegistries, CertsDirs: h.options.RegistryCertsDirs, PeerBandwidth: h.options.PeerBandwidth}, image.Deps{
		Log: h.log, Client: h.client, Peers: h.peers.Holders, PeerTransport: h.peers, Room: h.disk.Room,
	})
	h.images = h.store
	return err
}

func (h *host) layout() layout.Layout {
	return layout.Layout{Data: h.options.StateDir, Run: h.options.RunDir}
}

// prune removes the programs of earlier builds. If that fails, it only logs a warning.
func (h *host) prune(l layout.Layout, own binary.Set) {
	removed, err := binary.Prune(l.Bin(), layout.Bundles(l.State()), own.Build)
	if err != nil {
		h.log.Warn("remove programs of earlier builds", "err", err)
	}
	if len(removed) > 0 {
		h.log.Info("programs of earlier builds removed", "builds", removed)
	}
}

// run keeps the container runtime running and the rules of the bridge network in place.
func (h *host) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	switch {
	case h.companion != nil:
		g.Go(func() error { return h.companion.Run(ctx) })
	case h.client != nil:
		g.Go(func() error {
			dataplane.ServeNames(ctx, h.resolver(), h.log)
			return nil
		})
	}
	if h.bridge != nil {
		g.Go(func() error { return h.bridge.Run(ctx) })
	}
	if h.disk != nil {
		g.Go(func() error { return h.disk.Run(ctx) })
	}
	return g.Wait()
}

// ready returns when containers can run. It ends the execs of a former daemon, whose clients are
// gone, and the shims that no container uses.
func (h *host) ready(ctx context.Context) error {
	if h.companion != nil {
		if err := h.companion.Ready(ctx); err != nil {
			return err
		}
	}
	if h.execs != nil {
		if err := h.execs.Recover(); err != nil {
			h.log.Warn("what a former daemon has left in its folders remains", "err", err)
		}
		ctx, cancel := context.WithTimeout(ctx, orphanTimeout)
		defer cancel()
		h.execs.EndShims(ctx)
		ended, err := h.execs.EndExecs(ctx)
		if err != nil {
			h.log.Warn("execs of a former daemon may run still", "err", err)
		}
		if ended > 0 {
			h.log.Info("execs of a former daemon were ended", "count", ended)
		}
	}
	return nil
}

func (h *host) close() {
	if h.bridge != nil {
		_ = h.bridge.Close()
	}
	if h.client != nil {
		_ = h.client.Close()
	}
}

// clean removes every container and network of a former membership.
func (h *host) clean(ctx context.Context) error {
	return member.Clean(ctx, h.runtime, h.options.RunDir, func(ctx context.Context) error {
		if h.bridge == nil {
			return nil
		}
		h.execs.EndShims(ctx)
		return dataplane.Purge(ctx, h.options.RunDir, h.bridge, h.log)
	})
}

// resolver returns the socket of the name server. The container runtime runs it, or this daemon if
// the containerd is the host's own.
func (h *host) resolver() string {
	return layout.Resolver(h.layout().Socket())
}

func (h *host) containerdAddress() string {
	switch {
	case h.client == nil:
		return ""
	case h.options.ContainerdAddress != "":
		return h.options.ContainerdAddress
	default:
		return h.layout().Socket()
	}
}

// changes lists, for operators, the changes that this daemon makes to the host outside its folders.
func (h *host) changes() []string {
	if h.bridge == nil {
		return nil
	}
	changes := append(dataplane.HostChanges(),
		"limits of the kernel that containers share, until swarm is uninstalled: see swarm doctor",
		"cgroup "+h.options.CgroupParent)
	return append(changes, install.New(install.Config{}).Units()...)
}

// describe returns the description of this node: its platform, resources and software.
func (h *host) describe() *swarmv1.NodeDescription {
	routed, err := dataplane.Routed()
	if err != nil {
		// Without the routes, new networks may overlap them, and the operator must name subnets.
		h.log.Warn("the host's routes cannot be read: subnets of new networks may overlap them", "err", err)
	}
	d := node.Describe(versionInfo(), h.options.Labels)
	d.Hostname, d.Routed, d.Engine.Builds = h.options.Hostname, routed, h.builds()
	if h.disk != nil {
		d.Unavailable = h.disk.Full()
	}
	return d
}

// storage implements engine.Storage.
type hostStorage struct {
	*image.Store
	*containerd.Runtime
}

func (h *host) storage() engine.Storage {
	if h.store == nil {
		return nil
	}
	return hostStorage{h.store, h.runtime.(*containerd.Runtime)}
}

func (h *host) space() storage.Space {
	if h.disk == nil {
		return nil
	}
	return h.disk
}

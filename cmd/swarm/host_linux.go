package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"swarm/cli/daemon"
	"swarm/install"
	"swarm/internal/disk"
	"swarm/internal/sysctl"
	"swarm/overlay/bridge"
	"swarm/overlay/fabric"
	"swarm/overlay/hostnet"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
	"swarm/worker/containerd"
	"swarm/worker/containerd/binary"
	"swarm/worker/containerd/companion"
	"swarm/worker/containerd/image"
	"swarm/worker/containerd/layout"
	"swarm/worker/simulated"
)

// leaveGrace is how long containers may take to stop when their node leaves its cluster.
const leaveGrace = 10 * time.Second

// host is what a daemon has whether it is a member or not: containers, images, the node's own network.
type host struct {
	options   daemon.Options
	log       *slog.Logger
	companion *companion.Companion // nil with a containerd of the host's own, or a simulated runtime
	client    *client.Client       // nil with a simulated runtime
	bridge    *bridge.Bridge       // nil with a simulated runtime
	store     *image.Store         // nil with a simulated runtime
	disk      *disk.Watch          // nil with a simulated runtime

	runtime interface {
		worker.Runtime
		worker.Executor
	}
	// execs ends those of a former daemon; nil with a simulated runtime.
	execs  *containerd.Runtime
	images worker.ImageStore
	// peers is set while this host is a member.
	peers *peers
}

func newHost(o daemon.Options, log *slog.Logger) (*host, error) {
	h := &host{options: o, log: log, peers: &peers{}}
	if o.Simulated {
		images := simulated.NewImages()
		h.images = images
		h.runtime = simulated.New(simulated.Config{}, images)
		return h, nil
	}
	if err := sysctl.Raise(raisedLimits(o.RunDir)); err != nil {
		log.Warn("the kernel's limits that all containers of this host share stay as they are: see swarm doctor", "err", err)
	}
	var err error
	if h.disk, err = disk.NewWatch(o.StateDir, log); err != nil {
		return nil, err
	}
	if err := h.newContainers(); err != nil {
		return nil, err
	}
	b, err := bridge.New(bridge.Config{NetnsDir: filepath.Join(o.RunDir, "netns")}, bridge.Deps{Log: log})
	if err != nil {
		return nil, err
	}
	h.bridge = b
	return h, nil
}

// raisedLimits is the file in which package sysctl notes what it has raised.
func raisedLimits(runDir string) string { return filepath.Join(runDir, "sysctls") }

// newContainers plugs the runtime together: the embedded containerd, or the one that --containerd-address names.
func (h *host) newContainers() error {
	l := layout.Layout{Data: h.options.StateDir, Run: h.options.RunDir}
	cfg := containerd.Config{
		StateDir: h.options.StateDir, RunDir: h.options.RunDir,
		CgroupParent: h.options.CgroupParent, SystemdCgroup: h.options.CgroupDriver == daemon.CgroupSystemd,
	}
	address := h.options.ContainerdAddress
	set, err := binary.InstallSelf(l.Bin(), version)
	if err != nil {
		return err
	}
	cfg.Init = set.Program
	h.prune(l, set)
	if err := mount.SetTempMountLocation(filepath.Join(h.options.RunDir, "mounts")); err != nil {
		return err
	}
	if _, err := mount.CleanupTempMounts(0); err != nil {
		h.log.Warn("temporary mounts of a former daemon remain", "err", err)
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
		Log: h.log, Client: h.client, Peers: h.peers.holders, PeerTransport: h.peers, Room: h.disk.Room,
	})
	h.images = h.store
	return err
}

// prune removes the programs of earlier builds. That it cannot is no reason not to run.
func (h *host) prune(l layout.Layout, own binary.Set) {
	removed, err := binary.Prune(l.Bin(), layout.Bundles(l.State()), own.Build)
	if err != nil {
		h.log.Warn("remove programs of earlier builds", "err", err)
	}
	if len(removed) > 0 {
		h.log.Info("programs of earlier builds removed", "builds", removed)
	}
}

// run keeps the companion running and the firewall's rules in place.
func (h *host) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	switch {
	case h.companion != nil:
		g.Go(func() error { return h.companion.Run(ctx) })
	case h.client != nil:
		g.Go(func() error {
			answerNames(ctx, h.resolver())
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

// ready returns when containers can be run.
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
		h.endExecs(ctx)
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
	found, err := h.runtime.List(ctx)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(8)
	for _, c := range found {
		g.Go(func() error {
			return errors.Join(h.runtime.Stop(ctx, c.TaskID, "", leaveGrace), h.runtime.Remove(ctx, c.TaskID))
		})
	}
	err = g.Wait()
	if h.bridge == nil {
		return err
	}
	return errors.Join(err, h.purgeNetworks(ctx))
}

// purgeNetworks removes what networks of tasks are made of.
func (h *host) purgeNetworks(ctx context.Context) error {
	networks, err := h.newFabric(netip.IPv6Loopback(), 0) // which sends nothing any more
	if err == nil {
		err = errors.Join(networks.Purge(ctx), networks.Close())
	}
	ports := newMesh(0, 0, h.log)
	return errors.Join(err, ports.Purge(ctx), ports.Close(), h.bridge.Purge(ctx))
}

// resolver is where the name server is told what to answer: the runtime process, or this daemon beside a containerd of the
// host's own.
func (h *host) resolver() string {
	return layout.Resolver(layout.Layout{Data: h.options.StateDir, Run: h.options.RunDir}.Socket())
}

// newFabric makes this host's part of the overlay networks.
func (h *host) newFabric(underlay netip.Addr, port uint16) (*fabric.Fabric, error) {
	return fabric.New(fabric.Config{PinDir: filepath.Join(h.options.RunDir, "networks"), Underlay: underlay, Port: port}, fabric.Deps{Log: h.log})
}

func (h *host) containerdAddress() string {
	switch {
	case h.client == nil:
		return ""
	case h.options.ContainerdAddress != "":
		return h.options.ContainerdAddress
	default:
		return layout.Layout{Data: h.options.StateDir, Run: h.options.RunDir}.Socket()
	}
}

// changes lists what this daemon changes outside its folders.
func (h *host) changes() []string {
	if h.bridge == nil {
		return nil
	}
	changes := []string{
		"nftables tables swarm-bridge (families inet and bridge) and device swarm0, while tasks use the bridge network",
		"nftables tables swarm-mesh and swarm-mesh-zones, device swmesh, routing rules and tables, while ports are published on all nodes",
		"accept rules for these devices in others' chains that drop what is forwarded; net.ipv4.ip_forward and net.ipv6.conf.all.forwarding: as long",
		"limits of the kernel that containers share, until swarm is uninstalled: see swarm doctor",
		"cgroup " + h.options.CgroupParent,
	}
	return append(changes, install.New(install.Config{}).Units()...)
}

// describe says what this node is and has.
func (h *host) describe() *swarmv1.NodeDescription {
	var uname unix.Utsname
	_ = unix.Uname(&uname) // Cannot fail with a valid pointer.
	var memory unix.Sysinfo_t
	_ = unix.Sysinfo(&memory) // As above.
	var unavailable string
	if h.disk != nil {
		unavailable = h.disk.Full()
	}
	return &swarmv1.NodeDescription{
		Unavailable: unavailable,
		Routed:      h.routed(),
		Hostname:    h.options.Hostname,
		Platform:    &swarmv1.Platform{Os: runtime.GOOS, Architecture: machineName()},
		Resources: &swarmv1.Resources{
			NanoCpus: int64(runtime.NumCPU()) * 1e9, MemoryBytes: int64(memory.Totalram) * int64(memory.Unit),
		},
		Engine: &swarmv1.EngineDescription{
			EngineVersion: version, KernelVersion: unix.ByteSliceToString(uname.Release[:]), Build: versionInfo().Build,
			RuntimeVersion: "containerd " + versionInfo().Containerd, Builds: h.builds(),
		},
	}
}

// meshDevice carries the nodes' addresses on network ingress, which is the cluster's own range.
const meshDevice = "swmesh"

// routed lists the ranges that networks of the cluster must keep clear of. A host that cannot be asked has none: the
// operator names subnets then.
func (h *host) routed() []string {
	ranges, err := hostnet.Routed(meshDevice)
	if err != nil {
		h.log.Warn("the host's routes cannot be read: subnets of new networks may overlap them", "err", err)
	}
	out := make([]string, len(ranges))
	for i, r := range ranges {
		out[i] = r.String()
	}
	return out
}

// machineName is the architecture in the words of Docker's API.
func machineName() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	default:
		return runtime.GOARCH
	}
}

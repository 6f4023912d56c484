// Package control assembles the users' API from the packages of its nouns, and owns the
// authorisation table of all RPCs, including those of other packages. The nouns validate requests,
// resolve names, write the desired state and read it back. Reads come from this manager's replica.
// Writes go through the leader, each as one group with the versions from which it was made.
//
//	service, network, node, image, task,    the RPCs of swarmv1.Control
//	cluster, data, job, event
//	disk, volume, stats                     the RPCs of swarmv1.Disks, Volumes and Stats
//	crud                                    find, list, create, update and remove, for all kinds
//	object                                  what the kinds of objects are called and refer to
//	address, digest, nodecall               what several nouns need: virtual IPs, image digests,
//	                                        calls to nodes
//
// The packages of the nouns do not import each other. They write only the desired state: the
// planner decides what follows from it (tasks, placement, removal). The manager registers a Server
// and asks an Authoriser about every call. Package control itself starts no goroutine.
package control

import (
	"context"
	"log/slog"

	"google.golang.org/grpc"

	"swarm/manager/control/cluster"
	"swarm/manager/control/crud"
	"swarm/manager/control/data"
	"swarm/manager/control/digest"
	"swarm/manager/control/disk"
	"swarm/manager/control/event"
	"swarm/manager/control/image"
	"swarm/manager/control/job"
	"swarm/manager/control/network"
	"swarm/manager/control/node"
	"swarm/manager/control/nodecall"
	"swarm/manager/control/object"
	"swarm/manager/control/service"
	"swarm/manager/control/stats"
	"swarm/manager/control/task"
	"swarm/manager/control/volume"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// Config says who this manager is.
type Config struct{ NodeID string }

// Deps are what a Server needs. Images, Resolver, Login and Gossip may be nil.
type Deps struct {
	Log   *slog.Logger
	Store *raftstore.Store
	// Conn returns a connection to the services of a node. The Server does not close it.
	Conn func(nodeID string) (grpc.ClientConnInterface, error)
	// Images is the image store of this manager's node. Nil: images cannot be loaded on this node,
	// nor pulled or pushed by it.
	Images image.Store
	// Resolver asks registries for digests. Nil: no registry is asked.
	Resolver digest.Resolver
	// Login asks a registry whether it accepts the credentials. It returns ErrUnauthenticated if
	// not. Nil: the RPC Login returns ErrNotImplemented.
	Login func(ctx context.Context, registry, registryAuth string) error
	// Gossip says which nodes answer. Nil: the states of nodes in the store decide.
	Gossip node.Gossip
}

// The servers of the nouns, under names that differ, so that Server can embed them all.
type (
	services = service.Server
	networks = network.Server
	nodes    = node.Server
	images   = image.Server
	tasks    = task.Server
	clusters = cluster.Server
	files    = data.Server
	jobs     = job.Server
	watches  = event.Server
)

// unimplemented puts the methods of UnimplementedControlServer one level deeper than those of the
// nouns, which therefore take precedence.
type unimplemented struct {
	swarmv1.UnimplementedControlServer
}

// Server serves swarmv1.Control, with the methods of the nouns, swarmv1.Disks, swarmv1.Volumes and
// swarmv1.Stats.
type Server struct {
	unimplemented
	*services
	*networks
	*nodes
	*images
	*tasks
	*clusters
	*files
	*jobs
	*watches
	disks   *disk.Server
	volumes *volume.Server
	stats   *stats.Server
	store   *raftstore.Store
}

// New makes a Server.
func New(cfg Config, deps Deps) *Server {
	writer := crud.NewWriter(deps.Log, deps.Store)
	caller := nodecall.New(cfg.NodeID, deps.Store, deps.Conn)
	digests := digest.NewFinder(deps.Log, deps.Store, deps.Resolver)
	s := &Server{
		store:    deps.Store,
		networks: network.New(network.Deps{Store: deps.Store, Writer: writer, Nodes: caller}),
		nodes:    node.New(node.Deps{Log: deps.Log, Store: deps.Store, Writer: writer, Nodes: caller, Gossip: deps.Gossip}),
		images: image.New(image.Deps{
			Log: deps.Log, Store: deps.Store, Writer: writer, Nodes: caller, Digests: digests, Images: deps.Images, Login: deps.Login,
		}),
		tasks:    task.New(task.Deps{Log: deps.Log, Store: deps.Store, Nodes: caller}),
		clusters: cluster.New(cluster.Deps{Store: deps.Store, Writer: writer}),
		files:    data.New(data.Deps{Store: deps.Store, Writer: writer}),
		watches:  event.New(event.Deps{Store: deps.Store, Events: events()}),
		jobs:     job.New(job.Deps{Log: deps.Log, Store: deps.Store, Writer: writer}),
		volumes:  volume.New(volume.Deps{Log: deps.Log, Store: deps.Store, Writer: writer, Nodes: caller}),
		disks:    disk.New(disk.Deps{Log: deps.Log, Store: deps.Store, Writer: writer, Nodes: caller}),
		stats:    stats.New(stats.Deps{Store: deps.Store, Nodes: caller}),
	}
	s.services = service.New(service.Deps{
		Log: deps.Log, Store: deps.Store, Writer: writer, Digests: digests, LastLogs: s.LastLogs, StaleNotice: s.StaleNotice,
	})
	return s
}

// events returns the Events of the tables that users may watch. A Kind that only one noun needs may
// be in the package of that noun. Then add the Kind's Events here.
func events() []crud.Events { return object.Events() }

// Register registers the services of the users' API. Their unary calls do not answer from an old
// replica: see CurrentRegistrar.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	swarmv1.RegisterControlServer(CurrentRegistrar(r, s.store, s.StaleNotice), s)
	swarmv1.RegisterDisksServer(r, s.disks)
	swarmv1.RegisterVolumesServer(CurrentRegistrar(r, s.store, s.StaleNotice), s.volumes)
	swarmv1.RegisterStatsServer(CurrentRegistrar(r, s.store, s.StaleNotice), s.stats)
}

// MoveVolumes is a duty of the leader: see package volume.
func (s *Server) MoveVolumes(ctx context.Context) error { return s.volumes.MoveVolumes(ctx) }

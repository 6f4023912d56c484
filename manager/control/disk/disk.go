package disk

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"

	"swarm/internal/bounds"
	"swarm/internal/pace"
	"swarm/manager/control/crud"
	"swarm/manager/control/nodecall"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

const (
	// usageTimeout and pruneTimeout limit the call to one node.
	usageTimeout = 30 * time.Second
	pruneTimeout = 2 * time.Minute
)

// Deps are what a Server needs.
type Deps struct {
	Log    *slog.Logger
	Store  *raftstore.Store
	Writer *crud.Writer
	Nodes  *nodecall.Caller
}

// Server serves swarmv1.Disks.
type Server struct {
	swarmv1.UnimplementedDisksServer
	log    *slog.Logger
	store  *raftstore.Store
	writer *crud.Writer
	nodes  *nodecall.Caller
	// releases limits the requests of each node.
	releases *pace.Each[string]
}

// New makes a Server.
func New(deps Deps) *Server {
	return &Server{
		log: deps.Log, store: deps.Store, writer: deps.Writer, nodes: deps.Nodes,
		releases: pace.New[string](pace.Budget{Burst: releaseBurst, Period: releaseEvery}),
	}
}

// Usage returns what the nodes of the request have on their disks, or all nodes if it names none. A
// node that does not answer is in the result with an error.
func (s *Server) Usage(ctx context.Context, req *swarmv1.DisksUsageRequest) (*swarmv1.DisksUsageResponse, error) {
	nodes, err := s.nodes.Select(s.store.View(), req.GetNodes())
	if err != nil {
		return nil, err
	}
	return &swarmv1.DisksUsageResponse{Nodes: s.usage(ctx, nodes)}, nil
}

// usage asks nodes what they have on their disks.
func (s *Server) usage(ctx context.Context, nodes []*swarmv1.Node) []*swarmv1.NodeUsage {
	out := make([]*swarmv1.NodeUsage, len(nodes))
	s.nodes.Each(ctx, nodes, usageTimeout, func(ctx context.Context, i int, conn grpc.ClientConnInterface, err error) {
		out[i] = &swarmv1.NodeUsage{NodeId: nodes[i].GetId(), Hostname: object.NodeName(s.store.View(), nodes[i].GetId())}
		if err == nil {
			var answer *swarmv1.DiskUsageResponse
			if answer, err = swarmv1.NewDiskClient(conn).Usage(ctx, &swarmv1.DiskUsageRequest{}); err == nil {
				out[i].Usage = bounds.DiskUsage(answer)
			}
		}
		out[i].Error = nodecall.ErrorText(err)
	})
	return out
}

// Prune removes what nothing uses from the nodes of the request, or from all nodes if it names
// none. A node that does not answer is in the result with an error.
func (s *Server) Prune(ctx context.Context, req *swarmv1.DisksPruneRequest) (*swarmv1.DisksPruneResponse, error) {
	nodes, err := s.nodes.Select(s.store.View(), req.GetNodes())
	if err != nil {
		return nil, err
	}
	digests := map[string][]string{}
	out := &swarmv1.DisksPruneResponse{}
	if req.GetImages() || req.GetAllImages() {
		usage := s.usage(ctx, nodes)
		if req.GetAllImages() && len(req.GetNodes()) == 0 {
			out.Untagged, err = s.untag(ctx, usage, req)
			if err != nil {
				return nil, err
			}
		}
		v := s.store.View()
		for _, u := range usage {
			digests[u.GetNodeId()] = removable(v, u, req)
		}
	}
	out.Nodes = make([]*swarmv1.NodePruned, len(nodes))
	s.nodes.Each(ctx, nodes, pruneTimeout, func(ctx context.Context, i int, conn grpc.ClientConnInterface, err error) {
		id := nodes[i].GetId()
		out.Nodes[i] = &swarmv1.NodePruned{NodeId: id, Hostname: object.NodeName(s.store.View(), id)}
		if err == nil {
			var answer *swarmv1.DiskPruneResponse
			answer, err = swarmv1.NewDiskClient(conn).Prune(ctx, &swarmv1.DiskPruneRequest{
				Digests: digests[id], Containers: req.GetContainers(), Logs: req.GetLogs(), Until: req.GetUntil(),
			})
			if err == nil {
				out.Nodes[i].Pruned = bounds.DiskPruned(answer)
			}
		}
		out.Nodes[i].Error = nodecall.ErrorText(err)
	})
	return out, nil
}

// untag deletes the rows of the images that the filters match and that no service and no container
// uses. It returns the names of these images.
func (s *Server) untag(ctx context.Context, usage []*swarmv1.NodeUsage, req *swarmv1.DisksPruneRequest) ([]string, error) {
	// The labels of an image come from the nodes, so every node that holds it must match the
	// filter.
	used, passes := map[string]bool{}, map[string]bool{}
	for _, u := range usage {
		for _, h := range u.GetUsage().GetImages() {
			digest := h.GetImage().GetDigest()
			used[digest] = used[digest] || h.GetContainers() > 0
			before, seen := passes[digest]
			passes[digest] = (before || !seen) && labelsPass(req.GetLabels(), h.GetLabels())
		}
	}
	var names []string
	var digests []string
	_, err := s.writer.Write(ctx, 0, func(v *table.View) (changes []*swarmv1.Change, _ error) {
		names, digests = nil, nil
		for img := range v.Images.All() {
			digest := img.GetDigest()
			young := req.GetUntil() != nil && !img.GetMeta().GetUpdatedAt().AsTime().Before(req.GetUntil().AsTime())
			if young || used[digest] || len(req.GetLabels()) > 0 && !passes[digest] || len(object.ImageUsers(v, digest)) > 0 {
				continue
			}
			names, digests = append(names, img.GetName()), append(digests, digest)
			changes = append(changes, table.Delete(img))
		}
		return changes, nil
	})
	if err != nil {
		return nil, fmt.Errorf("prune images: %w", err)
	}
	s.log.Info("images pruned", "images", names, "digests", digests)
	return names, nil
}

// removable returns the digests on a node that no container, no service and no name of the cluster
// needs. If the request names nodes and all images, it also returns digests with a name, unless
// they were loaded: the copy may be the last one.
func removable(v *table.View, u *swarmv1.NodeUsage, req *swarmv1.DisksPruneRequest) []string {
	var out []string
	for _, h := range u.GetUsage().GetImages() {
		digest := h.GetImage().GetDigest()
		young := req.GetUntil() != nil && !h.GetSince().AsTime().Before(req.GetUntil().AsTime())
		names, loaded := object.ImageNames(v, digest)
		switch {
		case h.GetContainers() > 0 || young || !labelsPass(req.GetLabels(), h.GetLabels()):
		case names > 0 && (loaded || !req.GetAllImages() || len(req.GetNodes()) == 0):
		case len(object.ImageUsers(v, digest)) > 0:
		default:
			out = append(out, digest)
		}
	}
	return out
}

// labelsPass reports whether labels match all filters, in Docker's syntax: KEY, KEY=VALUE, KEY!,
// and KEY!=VALUE.
func labelsPass(filters []string, have map[string]string) bool {
	for _, f := range filters {
		key, value, isEqual := strings.Cut(f, "=")
		key, negated := strings.CutSuffix(key, "!")
		got, there := have[key]
		if fits := there && (!isEqual || got == value); fits == negated {
			return false
		}
	}
	return true
}

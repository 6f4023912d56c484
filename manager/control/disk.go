package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/internal/bounds"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

const (
	// usagePatience is for one node, which adds up files; prunePatience for one that removes them.
	usagePatience = 30 * time.Second
	prunePatience = 2 * time.Minute
	// asked is how many nodes are asked at once.
	asked = 32
)

// Disks serves swarmv1.Disks: what lies on the nodes' disks.
type Disks struct {
	swarmv1.UnimplementedDisksServer
	server *Server
}

// Disks is the part of the users' API that is about disks.
func (s *Server) Disks() *Disks { return &Disks{server: s} }

// Usage asks every node, or those that are named. One that does not answer is named with the reason.
func (d *Disks) Usage(ctx context.Context, req *swarmv1.DisksUsageRequest) (*swarmv1.DisksUsageResponse, error) {
	nodes, err := d.server.nodes(d.server.store.View(), req.GetNodes())
	if err != nil {
		return nil, err
	}
	return &swarmv1.DisksUsageResponse{Nodes: d.server.usage(ctx, nodes)}, nil
}

// nodes finds those that are named, by hostname; all when none is.
func (s *Server) nodes(v *raftstore.View, refs []string) ([]*swarmv1.Node, error) {
	var out []*swarmv1.Node
	for _, ref := range refs {
		n, err := s.node(v, ref)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	if len(refs) == 0 {
		out = slices.Collect(v.Nodes.All())
	}
	slices.SortFunc(out, func(a, b *swarmv1.Node) int {
		return cmp.Or(cmp.Compare(nodeName(v, a.GetId()), nodeName(v, b.GetId())), cmp.Compare(a.GetId(), b.GetId()))
	})
	return out, nil
}

func (s *Server) usage(ctx context.Context, nodes []*swarmv1.Node) []*swarmv1.NodeUsage {
	out := make([]*swarmv1.NodeUsage, len(nodes))
	s.askAll(ctx, nodes, usagePatience, func(ctx context.Context, i int, conn grpc.ClientConnInterface, err error) {
		out[i] = &swarmv1.NodeUsage{NodeId: nodes[i].GetId(), Hostname: nodeName(s.store.View(), nodes[i].GetId())}
		if err == nil {
			var answer *swarmv1.DiskUsageResponse
			if answer, err = swarmv1.NewDiskClient(conn).Usage(ctx, &swarmv1.DiskUsageRequest{}); err == nil {
				out[i].Usage = bounds.DiskUsage(answer)
			}
		}
		out[i].Error = complaint(err)
	})
	return out
}

// askAll calls ask for every node, many at once, with why it cannot be asked at all.
func (s *Server) askAll(ctx context.Context, nodes []*swarmv1.Node, patience time.Duration, ask func(ctx context.Context, i int, conn grpc.ClientConnInterface, err error)) {
	var g errgroup.Group
	g.SetLimit(asked)
	for i, n := range nodes {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			if st, _ := s.store.View().NodeStates.Get(n.GetId()); st.GetState() != swarmv1.NodeState_READY {
				ask(ctx, i, nil, errdefs.ErrUnavailable.WithMessage("it is "+strings.ToLower(st.GetState().String())))
				return nil
			}
			conn, err := s.deps.Conn(n.GetId())
			if err != nil {
				ask(ctx, i, nil, err)
				return nil
			}
			ask(ctx, i, conn, nil)
			return nil
		})
	}
	_ = g.Wait() // each answers for itself
}

func complaint(err error) string {
	if err == nil {
		return ""
	}
	return bounds.Text(err.Error(), bounds.MaxText)
}

// Prune removes what nothing uses: on every node, or on those that are named.
func (d *Disks) Prune(ctx context.Context, req *swarmv1.DisksPruneRequest) (*swarmv1.DisksPruneResponse, error) {
	s := d.server
	nodes, err := s.nodes(s.store.View(), req.GetNodes())
	if err != nil {
		return nil, err
	}
	digests := map[string][]string{}
	out := &swarmv1.DisksPruneResponse{}
	if req.GetImages() || req.GetAllImages() {
		usage := s.usage(ctx, nodes)
		if req.GetAllImages() && len(req.GetNodes()) == 0 {
			if out.Untagged, err = s.untag(ctx, usage, req); err != nil {
				return nil, err
			}
		}
		v := s.store.View()
		for _, u := range usage {
			digests[u.GetNodeId()] = removable(v, u, req)
		}
	}
	out.Nodes = make([]*swarmv1.NodePruned, len(nodes))
	s.askAll(ctx, nodes, prunePatience, func(ctx context.Context, i int, conn grpc.ClientConnInterface, err error) {
		id := nodes[i].GetId()
		out.Nodes[i] = &swarmv1.NodePruned{NodeId: id, Hostname: nodeName(s.store.View(), id)}
		if err == nil {
			var answer *swarmv1.DiskPruneResponse
			answer, err = swarmv1.NewDiskClient(conn).Prune(ctx, &swarmv1.DiskPruneRequest{
				Digests: digests[id], Containers: req.GetContainers(), Logs: req.GetLogs(), Until: req.GetUntil(),
			})
			if err == nil {
				out.Nodes[i].Pruned = bounds.DiskPruned(answer)
			}
		}
		out.Nodes[i].Error = complaint(err)
	})
	return out, nil
}

// untag makes the cluster forget the images that no service and no container uses, as far as the filter goes.
func (s *Server) untag(ctx context.Context, usage []*swarmv1.NodeUsage, req *swarmv1.DisksPruneRequest) ([]string, error) {
	// Every holder must agree that the filter names an image: labels are what a node says of it.
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
	_, err := s.write(ctx, 0, func(v *raftstore.View) (changes []*swarmv1.Change, _ error) {
		names, digests = nil, nil
		for img := range v.Images.All() {
			digest := img.GetDigest()
			young := req.GetUntil() != nil && !img.GetMeta().GetUpdatedAt().AsTime().Before(req.GetUntil().AsTime())
			if young || used[digest] || len(req.GetLabels()) > 0 && !passes[digest] || len(usedBy(v, digest)) > 0 {
				continue
			}
			names, digests = append(names, img.GetName()), append(digests, digest)
			changes = append(changes, raftstore.Delete(img))
		}
		return changes, nil
	})
	if err != nil {
		return nil, fmt.Errorf("prune images: %w", err)
	}
	s.log.Info("images pruned", "images", names, "digests", digests)
	return names, nil
}

// removable are the images of a node that no container, no service and no name of the cluster keeps. On single nodes --all
// takes those with a name too, unless they were loaded: then this may be the last copy.
func removable(v *raftstore.View, u *swarmv1.NodeUsage, req *swarmv1.DisksPruneRequest) []string {
	var out []string
	for _, h := range u.GetUsage().GetImages() {
		digest := h.GetImage().GetDigest()
		young := req.GetUntil() != nil && !h.GetSince().AsTime().Before(req.GetUntil().AsTime())
		named, loaded := known(v, digest)
		switch {
		case h.GetContainers() > 0 || young || !labelsPass(req.GetLabels(), h.GetLabels()):
		case named && (loaded || !req.GetAllImages() || len(req.GetNodes()) == 0):
		case len(usedBy(v, digest)) > 0:
		default:
			out = append(out, digest)
		}
	}
	return out
}

// known says whether the cluster has a name for the digest, and whether it was loaded.
func known(v *raftstore.View, digest string) (named, loaded bool) {
	for img := range v.Images.All() {
		if img.GetDigest() == digest {
			named, loaded = true, loaded || img.GetLoaded()
		}
	}
	return named, loaded
}

// labelsPass judges Docker's label filters: key, key=value, and with != those that do not have it.
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

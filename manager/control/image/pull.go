package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/internal/bounds"
	"swarm/internal/ident"
	"swarm/internal/spec"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// parallelNodes is how many nodes fetch an image at the same time, after the first node has it.
// They fetch it from each other.
const parallelNodes = 8

// pulling is one call of PullImage.
type pulling struct {
	server *Server
	// ref is the image. Without a digest, each node asks the registry, and no row is written.
	ref      spec.Image
	auth     string
	named    bool // whether progress names the node, because there are several
	progress *progressSender
}

// PullImage has nodes fetch an image. If the request names no nodes, this manager's node fetches
// it. This manager finds the digest, and the nodes fetch by digest. Of the answers of other nodes,
// it believes only whether they succeeded.
func (s *Server) PullImage(req *swarmv1.PullImageClusterRequest, stream swarmv1.Control_PullImageServer) error {
	parsed, err := spec.ParseImage(req.GetReference())
	if err != nil {
		return err
	}
	nodes, err := s.pullers(req)
	if err != nil {
		return err
	}
	p := &pulling{server: s, ref: parsed, auth: req.GetRegistryAuth(), named: len(nodes) > 1, progress: &progressSender{send: stream.Send}}
	if p.ref.Digest == "" {
		var warning string
		p.ref.Digest, warning, err = s.digests.Find(stream.Context(), parsed, p.auth)
		if err != nil {
			return fmt.Errorf("pull %s: %w", parsed.Familiar(), err)
		}
		if warning != "" {
			p.progress.tell(&swarmv1.ImageProgress{Step: warning})
		}
	}
	one := func(node string) error {
		if err := p.on(stream.Context(), node); err != nil {
			return fmt.Errorf("pull %s on node %s: %w", parsed.Familiar(), object.NodeName(s.store.View(), node), err)
		}
		return nil
	}
	// The first node fetches from the registry, the others from nodes that have the image.
	if err := one(nodes[0]); err != nil {
		return err
	}
	// If one node fails, the others continue.
	errs := make([]error, len(nodes))
	var group errgroup.Group
	group.SetLimit(parallelNodes)
	for i, node := range nodes[1:] {
		group.Go(func() error {
			errs[i] = one(node)
			return nil
		})
	}
	return errors.Join(append(errs, group.Wait(), p.progress.failed())...)
}

// pullers returns the ids of the nodes that a request names. This manager's node comes first if it
// is among them, because only its report about the image (size and platforms) is written to the
// image's row.
func (s *Server) pullers(req *swarmv1.PullImageClusterRequest) ([]string, error) {
	v := s.store.View()
	var nodes []string
	for _, ref := range req.GetNodes() {
		n, err := s.nodes.Find(v, ref)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(nodes, n.GetId()) {
			nodes = append(nodes, n.GetId())
		}
	}
	if req.GetAll() {
		for n := range v.Nodes.All() {
			if st, _ := v.NodeStates.Get(n.GetId()); st.GetState() == swarmv1.NodeState_READY {
				nodes = append(nodes, n.GetId())
			}
		}
		if len(nodes) == 0 {
			return nil, errdefs.ErrUnavailable.WithMessage("no node is ready to pull an image: see `swarm node ls`")
		}
	}
	if len(nodes) == 0 {
		nodes = []string{s.nodes.Self()}
	}
	if i := slices.Index(nodes, s.nodes.Self()); i > 0 {
		nodes = slices.Insert(slices.Delete(nodes, i, i+1), 0, s.nodes.Self())
	}
	return nodes, nil
}

// on has one node fetch the image, and writes that the node holds it.
func (p *pulling) on(ctx context.Context, node string) error {
	name := ""
	if p.named {
		name = object.NodeName(p.server.store.View(), node)
	}
	own, err := p.fetch(ctx, node, func(m *swarmv1.ImageProgress) {
		if name != "" {
			m = m.CloneVT() // Other calls may share the message.
			m.Node = name
		}
		p.progress.tell(m)
	})
	if err != nil {
		return err
	}
	stored := &swarmv1.Image{Name: p.ref.Name}
	if p.ref.Digest != "" {
		stored, err = p.record(ctx, node, own)
		if err != nil {
			return err
		}
	}
	p.progress.tell(&swarmv1.ImageProgress{Step: "pulled", Image: stored, Node: name})
	return p.progress.failed()
}

// fetch has a node fetch the image. own is what the store of this manager's node reports of it. It
// is nil for other nodes.
func (p *pulling) fetch(ctx context.Context, node string, progress func(*swarmv1.ImageProgress)) (own *swarmv1.Image, err error) {
	if node == p.server.nodes.Self() && p.server.images != nil {
		return p.server.images.Pull(ctx, p.ref.String(), p.auth, progress)
	}
	conn, err := p.server.nodes.Conn(node)
	if err != nil {
		return nil, err
	}
	from, err := swarmv1.NewWorkerClient(conn).PullImage(ctx, &swarmv1.PullImageRequest{Reference: p.ref.String(), RegistryAuth: p.auth})
	if err != nil {
		return nil, err
	}
	return nil, follow(from, progress)
}

// record writes that a node holds the image, and the image's row with the digest that was
// requested. If an image was loaded under the name, record leaves the row as it is, because no
// registry has that image. own is what this manager's node reports of the image, or nil for other
// nodes.
func (p *pulling) record(ctx context.Context, node string, own *swarmv1.Image) (stored *swarmv1.Image, err error) {
	if own != nil && own.GetDigest() != p.ref.Digest {
		return nil, errdefs.ErrDataLoss.WithMessage(fmt.Sprintf("%s was fetched, and %s was asked for", own.GetDigest(), p.ref.Digest))
	}
	stored, err = p.server.recordCopy(ctx, p.ref.Digest, node, func(v *table.View) (*swarmv1.Image, *swarmv1.Change) {
		old, ok := v.Images.ByName(p.ref.Name)
		switch row := old.CloneVT(); {
		case !ok:
			row = &swarmv1.Image{Id: ident.NewID(), Name: p.ref.Name, Digest: p.ref.Digest, Platforms: own.GetPlatforms(), Size: own.GetSize()}
			return row, table.Create(row)
		case old.GetDigest() == p.ref.Digest && (own == nil || old.GetSize() == own.GetSize()), old.GetLoaded():
			return old, nil
		default:
			row.Digest, row.Platforms, row.Size = p.ref.Digest, own.GetPlatforms(), own.GetSize()
			return row, table.Update(row)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("record image %s: %w", p.ref.Name, err)
	}
	p.server.log.Info("image recorded", "image", p.ref.Name, "digest", p.ref.Digest, "node", node)
	return stored, nil
}

// follow passes on the progress of a node until its stream ends.
func follow(from grpc.ServerStreamingClient[swarmv1.ImageProgress], progress func(*swarmv1.ImageProgress)) error {
	for {
		msg, err := from.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case msg.GetImage() == nil && (msg.GetId() != "" || msg.GetStep() != "done"):
			progress(bounds.Progress(msg))
		}
	}
}

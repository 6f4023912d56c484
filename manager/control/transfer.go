package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/internal/ident"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// What goes between registries and nodes: pull, push, and whether a registry takes a login.

// parallelNodes fetch at once, once the first has the image: they have it from one another.
const parallelNodes = 8

// progressSender keeps the first error of a stream that nobody reads any more. Nodes and layers tell side by side.
type progressSender struct {
	send func(*swarmv1.ImageProgress) error

	mu  sync.Mutex // guards what follows, and send
	err error
}

func (p *progressSender) tell(m *swarmv1.ImageProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = p.send(m)
	}
}

// failed is the error of the stream.
func (p *progressSender) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// PullImage has nodes fetch an image; without names, this manager's.
func (s *Server) PullImage(req *swarmv1.PullImageClusterRequest, stream swarmv1.Control_PullImageServer) error {
	parsed, err := spec.ParseImage(req.GetReference())
	if err != nil {
		return err
	}
	nodes, err := s.pullers(req)
	if err != nil {
		return err
	}
	progress := &progressSender{send: stream.Send}
	one := func(node string) error {
		if err := s.pullOn(stream.Context(), node, len(nodes) > 1, parsed, req.GetRegistryAuth(), progress); err != nil {
			return fmt.Errorf("pull %s on node %s: %w", parsed.Familiar(), nodeName(s.store.View(), node), err)
		}
		return nil
	}
	// The first has it from the registry, the others from nodes.
	if err := one(nodes[0]); err != nil {
		return err
	}
	// A node that cannot have it keeps none of the others from it.
	errs := make([]error, len(nodes))
	var group errgroup.Group
	group.SetLimit(parallelNodes)
	for i, node := range nodes[1:] {
		group.Go(func() error {
			errs[i] = one(node)
			return nil
		})
	}
	return errors.Join(append(errs, group.Wait(), progress.failed())...)
}

// pullers are the nodes that a request names.
func (s *Server) pullers(req *swarmv1.PullImageClusterRequest) ([]string, error) {
	v := s.store.View()
	var nodes []string
	for _, ref := range req.GetNodes() {
		n, err := s.node(v, ref)
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
		nodes = []string{s.cfg.NodeID}
	}
	return nodes, nil
}

func (s *Server) pullOn(ctx context.Context, node string, named bool, ref spec.Image, auth string, progress *progressSender) error {
	name := ""
	if named {
		name = nodeName(s.store.View(), node)
	}
	img, err := s.pull(ctx, node, ref.String(), auth, func(m *swarmv1.ImageProgress) {
		if name != "" {
			m = m.CloneVT() // others may hear of the same pull
			m.Node = name
		}
		progress.tell(m)
	})
	if err != nil {
		return err
	}
	if img.GetName() == "" {
		img = img.CloneVT()
		img.Name = ref.Name
	}
	stored, err := s.record(ctx, img, node, false)
	if err != nil {
		return err
	}
	progress.tell(&swarmv1.ImageProgress{Step: "pulled", Image: stored, Node: name})
	return progress.failed()
}

func (s *Server) pull(ctx context.Context, node, ref, auth string, progress func(*swarmv1.ImageProgress)) (*swarmv1.Image, error) {
	if node == s.cfg.NodeID && s.deps.Images != nil {
		return s.deps.Images.Pull(ctx, ref, auth, progress)
	}
	conn, err := s.deps.Conn(node)
	if err != nil {
		return nil, err
	}
	from, err := swarmv1.NewWorkerClient(conn).PullImage(ctx, &swarmv1.PullImageRequest{Reference: ref, RegistryAuth: auth})
	if err != nil {
		return nil, err
	}
	img, err := follow(from, progress)
	if err == nil && img == nil {
		err = errdefs.ErrInternal.WithMessage("the node did not say what it pulled")
	}
	return img, err
}

// follow passes a node's progress on, to its end, and gives the image of the last message.
func follow(from grpc.ServerStreamingClient[swarmv1.ImageProgress], progress func(*swarmv1.ImageProgress)) (img *swarmv1.Image, err error) {
	for {
		msg, err := from.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return img, nil
		case err != nil:
			return nil, err
		case msg.GetImage() != nil:
			img = msg.GetImage()
		case msg.GetId() != "" || msg.GetStep() != "done":
			progress(msg)
		}
	}
}

// PushImage has a node that holds all of an image send it to the registry of its name: this manager's node if it can.
func (s *Server) PushImage(req *swarmv1.PushImageClusterRequest, stream swarmv1.Control_PushImageServer) error {
	v := s.store.View()
	parsed, err := spec.ParseImage(req.GetReference())
	if err != nil {
		return err
	}
	img, ok := v.ImageByName(parsed.Name)
	if !ok {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("push %s: the cluster has no image of this name: see `swarm image ls`, and give one a second name with `swarm image tag`", parsed.Familiar()))
	}
	progress := &progressSender{send: stream.Send}
	holders := s.holders(v, img.GetDigest())
	err = errdefs.ErrUnavailable.WithMessage("no ready node holds it")
	for _, node := range holders {
		err = s.push(stream.Context(), node, img.GetName()+"@"+img.GetDigest(), req.GetRegistryAuth(), progress.tell)
		// Another node may hold what this one lacks, or be in reach.
		if err == nil || !errdefs.IsNotFound(err) && !errdefs.IsUnavailable(err) || stream.Context().Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("push %s: %w", parsed.Familiar(), err)
	}
	progress.tell(&swarmv1.ImageProgress{Step: "pushed", Image: img})
	return progress.failed()
}

// holders are the ready nodes with a copy, this one first.
func (s *Server) holders(v *raftstore.View, digest string) []string {
	var ids []string
	for c := range v.ImageCopies.Prefix(digest + "/") {
		st, _ := v.NodeStates.Get(c.GetNodeId())
		switch {
		case c.GetNodeId() == s.cfg.NodeID:
			ids = slices.Insert(ids, 0, c.GetNodeId())
		case st.GetState() == swarmv1.NodeState_READY:
			ids = append(ids, c.GetNodeId())
		}
	}
	return ids
}

func (s *Server) push(ctx context.Context, node, ref, auth string, progress func(*swarmv1.ImageProgress)) error {
	if node == s.cfg.NodeID && s.deps.Images != nil {
		return s.deps.Images.Push(ctx, ref, auth, progress)
	}
	conn, err := s.deps.Conn(node)
	if err != nil {
		return err
	}
	from, err := swarmv1.NewWorkerClient(conn).PushImage(ctx, &swarmv1.PushImageRequest{Reference: ref, RegistryAuth: auth})
	if err != nil {
		return err
	}
	_, err = follow(from, progress)
	return err
}

// TagImage gives an image a second name. A name that another image has moves to this one.
func (s *Server) TagImage(ctx context.Context, req *swarmv1.TagImageRequest) (*swarmv1.ImageInfo, error) {
	target, err := spec.ParseImage(req.GetTarget())
	if err != nil {
		return nil, err
	}
	if target.Digest != "" {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("tag %s: a name to give has no digest: write [REGISTRY/]NAME[:TAG]", req.GetTarget()))
	}
	source, err := anyImage(s.store.View(), req.GetSource())
	if err != nil {
		return nil, err
	}
	_, err = s.write(ctx, 0, func(v *raftstore.View) ([]*swarmv1.Change, error) {
		from, ok := v.Images.Get(source.GetId())
		if !ok {
			return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("image %s was removed meanwhile", req.GetSource()))
		}
		row := from.CloneVT()
		row.Id, row.Meta, row.Name = ident.NewID(), nil, target.Name
		old, taken := v.ImageByName(target.Name)
		switch {
		case taken && old.GetDigest() == from.GetDigest():
			return nil, nil
		case taken:
			row.Id, row.Meta = old.GetId(), old.GetMeta()
			return []*swarmv1.Change{raftstore.Update(row)}, nil
		}
		return []*swarmv1.Change{raftstore.Create(row)}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("tag image %s: %w", req.GetSource(), err)
	}
	return s.GetImage(ctx, &swarmv1.GetRequest{Id: target.Name})
}

// anyImage also takes a digest that several names have: they all mean the same.
func anyImage(v *raftstore.View, ref string) (*swarmv1.Image, error) {
	for img := range v.Images.All() {
		if img.GetDigest() == ref {
			return img, nil
		}
	}
	return findImage(v, ref)
}

// Login asks a registry, from this manager's node, whether it takes the credentials.
func (s *Server) Login(ctx context.Context, req *swarmv1.LoginRequest) (*swarmv1.LoginResponse, error) {
	if s.deps.Login == nil {
		return nil, errdefs.ErrNotImplemented.WithMessage("this manager's node asks no registry: log in by another manager with -H")
	}
	if err := s.deps.Login(ctx, strings.TrimSpace(req.GetServer()), req.GetRegistryAuth()); err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	return &swarmv1.LoginResponse{}, nil
}

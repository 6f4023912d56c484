package image

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
	"swarm/internal/spec"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// progressSender sends progress to a client, and keeps the first error. Several nodes and layers
// report at the same time.
type progressSender struct {
	send func(*swarmv1.ImageProgress) error

	mu  sync.Mutex // guards err, and calls of send
	err error
}

func (p *progressSender) tell(m *swarmv1.ImageProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = p.send(m)
	}
}

// failed returns the first error of the stream.
func (p *progressSender) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// PushImage has a node that holds the whole image push it to the registry that its name has. It
// tries the nodes that hold the image one after the other, and this manager's node first.
func (s *Server) PushImage(req *swarmv1.PushImageClusterRequest, stream swarmv1.Control_PushImageServer) error {
	v := s.store.View()
	parsed, err := spec.ParseImage(req.GetReference())
	if err != nil {
		return err
	}
	img, ok := v.Images.ByName(parsed.Name)
	if !ok {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("push %s: the cluster has no image of this name: see `swarm image ls`, and give one a second name with `swarm image tag`", parsed.Familiar()))
	}
	progress := &progressSender{send: stream.Send}
	holders := s.holders(v, img.GetDigest())
	err = errdefs.ErrUnavailable.WithMessage("no ready node holds it")
	for _, node := range holders {
		err = s.push(stream.Context(), node, img.GetName()+"@"+img.GetDigest(), req.GetRegistryAuth(), progress.tell)
		// Another node may hold the part that this one lacks, or may be reachable.
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

// holders returns the ready nodes that hold a digest. This manager's node comes first.
func (s *Server) holders(v *table.View, digest string) []string {
	var ids []string
	for c := range v.ImageCopies.Prefix(digest + "/") {
		st, _ := v.NodeStates.Get(c.GetNodeId())
		switch {
		case c.GetNodeId() == s.nodes.Self():
			ids = slices.Insert(ids, 0, c.GetNodeId())
		case st.GetState() == swarmv1.NodeState_READY:
			ids = append(ids, c.GetNodeId())
		}
	}
	return ids
}

// push has one node push an image.
func (s *Server) push(ctx context.Context, node, ref, auth string, progress func(*swarmv1.ImageProgress)) error {
	if node == s.nodes.Self() && s.images != nil {
		return s.images.Push(ctx, ref, auth, progress)
	}
	conn, err := s.nodes.Conn(node)
	if err != nil {
		return err
	}
	from, err := swarmv1.NewWorkerClient(conn).PushImage(ctx, &swarmv1.PushImageRequest{Reference: ref, RegistryAuth: auth})
	if err != nil {
		return err
	}
	return follow(from, progress)
}

// TagImage gives an image a second name. If another image has the name, the name moves to this
// image.
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
	_, err = s.writer.Write(ctx, 0, func(v *table.View) ([]*swarmv1.Change, error) {
		from, ok := v.Images.Get(source.GetId())
		if !ok {
			return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("image %s was removed meanwhile", req.GetSource()))
		}
		row := from.CloneVT()
		row.Id, row.Meta, row.Name = ident.NewID(), nil, target.Name
		old, taken := v.Images.ByName(target.Name)
		switch {
		case taken && old.GetDigest() == from.GetDigest():
			return nil, nil
		case taken:
			row.Id, row.Meta = old.GetId(), old.GetMeta()
			return []*swarmv1.Change{table.Update(row)}, nil
		}
		return []*swarmv1.Change{table.Create(row)}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("tag image %s: %w", req.GetSource(), err)
	}
	return s.GetImage(ctx, &swarmv1.GetRequest{Id: target.Name})
}

// anyImage returns the image that ref refers to. If ref is a digest that several names have, it
// returns one of them: for the caller, they are equal.
func anyImage(v *table.View, ref string) (*swarmv1.Image, error) {
	for img := range v.Images.All() {
		if img.GetDigest() == ref {
			return img, nil
		}
	}
	return object.Images().Find(v, ref)
}

// Login asks a registry, from this manager's node, whether it accepts the credentials.
func (s *Server) Login(ctx context.Context, req *swarmv1.LoginRequest) (*swarmv1.LoginResponse, error) {
	if s.login == nil {
		return nil, errdefs.ErrNotImplemented.WithMessage("this manager's node asks no registry: log in by another manager with -H")
	}
	if err := s.login(ctx, strings.TrimSpace(req.GetServer()), req.GetRegistryAuth()); err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	return &swarmv1.LoginResponse{}, nil
}

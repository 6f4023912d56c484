package image

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"swarm/internal/bounds"
	"swarm/internal/ident"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// LoadImage reads an archive into the image store of this manager's node, and writes the images in
// it to the cluster's state.
func (s *Server) LoadImage(stream swarmv1.Control_LoadImageServer) error {
	if s.images == nil {
		return errdefs.ErrNotImplemented.WithMessage("this manager's node holds no images: load on another manager with -H")
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if name := first.GetName(); name != "" {
		if _, err := spec.ParseImage(name); err != nil {
			return err
		}
	}
	ctx := stream.Context()
	progress := &progressSender{send: stream.Send}
	images, err := s.images.Load(ctx, &archive{stream: stream, rest: first.GetData()}, first.GetSize(), first.GetName(), progress.tell)
	if err != nil {
		return fmt.Errorf("load image: %w", err)
	}
	if len(images) == 0 {
		return errdefs.ErrInvalidArgument.WithMessage("load image: the archive holds no image with a name: give it one with --name")
	}
	for _, img := range images {
		stored, err := s.loaded(ctx, img)
		if err != nil {
			return err
		}
		if err := stream.Send(&swarmv1.ImageProgress{Step: "loaded", Image: stored}); err != nil {
			return err
		}
	}
	return progress.failed()
}

// archive is an io.Reader of the data in a stream of requests.
type archive struct {
	stream swarmv1.Control_LoadImageServer
	rest   []byte
}

func (a *archive) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		msg, err := a.stream.Recv()
		if err != nil {
			return 0, err // io.EOF at the end of the stream
		}
		a.rest = msg.GetData()
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// loaded writes an image that this manager's node has just loaded to the cluster's state. The node
// has computed the digest from the bytes that the client sent.
func (s *Server) loaded(ctx context.Context, img *swarmv1.Image) (*swarmv1.Image, error) {
	parsed, err := spec.ParseImage(img.GetName())
	if err != nil {
		return nil, err
	}
	if !bounds.IsDigest(img.GetDigest()) {
		return nil, errdefs.ErrInternal.WithMessage(fmt.Sprintf("load image %s: its digest %q is none", parsed.Familiar(), img.GetDigest()))
	}
	stored, err := s.recordCopy(ctx, img.GetDigest(), s.nodes.Self(), func(v *table.View) (*swarmv1.Image, *swarmv1.Change) {
		row := &swarmv1.Image{Id: ident.NewID(), Name: parsed.Name, Digest: img.GetDigest(), Platforms: img.GetPlatforms(), Size: img.GetSize(), Loaded: true}
		if old, ok := v.Images.ByName(parsed.Name); ok {
			row.Id, row.Meta = old.GetId(), old.GetMeta()
			return row, table.Update(row)
		}
		return row, table.Create(row)
	})
	if err != nil {
		return nil, fmt.Errorf("record image %s: %w", parsed.Name, err)
	}
	s.log.Info("image recorded", "image", parsed.Name, "digest", img.GetDigest(), "node", s.nodes.Self())
	return stored, nil
}

// recordCopy writes that a node holds a digest. edit returns an image, and the change of the
// image's row or nil. recordCopy writes that change in the same group, and returns the image.
func (s *Server) recordCopy(ctx context.Context, digest, node string, edit func(*table.View) (*swarmv1.Image, *swarmv1.Change)) (stored *swarmv1.Image, err error) {
	write := func(v *table.View) (changes []*swarmv1.Change, _ error) {
		var change *swarmv1.Change
		stored, change = edit(v)
		if change != nil {
			changes = append(changes, change)
		}
		c := &swarmv1.ImageCopy{Digest: digest, NodeId: node}
		if _, ok := v.ImageCopies.Get(table.Key(c)); !ok {
			changes = append(changes, table.Put(c))
		}
		return changes, nil
	}
	// If another call creates the image's row first, Write calls write again, and edit finds the
	// row.
	_, err = s.writer.Write(ctx, 0, write)
	return stored, err
}

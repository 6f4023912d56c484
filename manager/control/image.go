package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/bounds"
	"swarm/internal/ident"
	"swarm/internal/spec"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// GetImage looks an image up by name, id or digest.
func (s *Server) GetImage(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.ImageInfo, error) {
	v := s.store.View()
	img, err := findImage(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return imageInfo(v, img), nil
}

// ListImages lists the cluster's images by name.
func (s *Server) ListImages(_ context.Context, req *swarmv1.ListRequest) (*swarmv1.ListImagesResponse, error) {
	v, out := s.store.View(), &swarmv1.ListImagesResponse{}
	for img := range v.Images.All() {
		info := imageInfo(v, img)
		parsed, _ := spec.ParseImage(img.GetName())
		if matches(req.GetFilter(), subject{
			id: img.GetId(), digest: strings.TrimPrefix(img.GetDigest(), "sha256:"), names: []string{img.GetName(), parsed.Familiar()}, nodes: info.GetNodeIds(),
		}) {
			out.Images = append(out.Images, info)
		}
	}
	slices.SortStableFunc(out.Images, func(a, b *swarmv1.ImageInfo) int {
		return cmp.Compare(a.GetImage().GetName(), b.GetImage().GetName())
	})
	return out, nil
}

func imageInfo(v *raftstore.View, img *swarmv1.Image) *swarmv1.ImageInfo {
	info := &swarmv1.ImageInfo{Image: img}
	for c := range v.ImageCopies.Prefix(img.GetDigest() + "/") {
		if !c.GetLeaving() {
			info.NodeIds = append(info.NodeIds, c.GetNodeId())
		}
	}
	return info
}

// LoadImage takes an archive to this manager's node and makes its images known to the cluster.
func (s *Server) LoadImage(stream swarmv1.Control_LoadImageServer) error {
	if s.deps.Images == nil {
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
	images, err := s.deps.Images.Load(ctx, &archive{stream: stream, rest: first.GetData()}, first.GetSize(), first.GetName(), progress.tell)
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

// archive reads the data of a stream of requests.
type archive struct {
	stream swarmv1.Control_LoadImageServer
	rest   []byte
}

func (a *archive) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		msg, err := a.stream.Recv()
		if err != nil {
			return 0, err // io.EOF at its end
		}
		a.rest = msg.GetData()
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// loaded makes an image known under its name, as this manager's node has just loaded it. The digest is of the bytes that
// came through here.
func (s *Server) loaded(ctx context.Context, img *swarmv1.Image) (*swarmv1.Image, error) {
	parsed, err := spec.ParseImage(img.GetName())
	if err != nil {
		return nil, err
	}
	if !bounds.IsDigest(img.GetDigest()) {
		return nil, errdefs.ErrInternal.WithMessage(fmt.Sprintf("load image %s: its digest %q is none", parsed.Familiar(), img.GetDigest()))
	}
	stored, err := s.recordCopy(ctx, img.GetDigest(), s.cfg.NodeID, func(v *raftstore.View) (*swarmv1.Image, *swarmv1.Change) {
		row := &swarmv1.Image{Id: ident.NewID(), Name: parsed.Name, Digest: img.GetDigest(), Platforms: img.GetPlatforms(), Size: img.GetSize(), Loaded: true}
		if old, ok := v.ImageByName(parsed.Name); ok {
			row.Id, row.Meta = old.GetId(), old.GetMeta()
			return row, raftstore.Update(row)
		}
		return row, raftstore.Create(row)
	})
	if err != nil {
		return nil, fmt.Errorf("record image %s: %w", parsed.Name, err)
	}
	s.log.Info("image recorded", "image", parsed.Name, "digest", img.GetDigest(), "node", s.cfg.NodeID)
	return stored, nil
}

// recordCopy writes that a node holds a digest, together with the change of an image's row that edit makes; nil: none.
func (s *Server) recordCopy(ctx context.Context, digest, node string, edit func(*raftstore.View) (*swarmv1.Image, *swarmv1.Change)) (stored *swarmv1.Image, err error) {
	write := func(v *raftstore.View) (changes []*swarmv1.Change, _ error) {
		var change *swarmv1.Change
		if stored, change = edit(v); change != nil {
			changes = append(changes, change)
		}
		c := &swarmv1.ImageCopy{Digest: digest, NodeId: node}
		if _, ok := v.ImageCopies.Get(raftstore.Key(c)); !ok {
			changes = append(changes, raftstore.Put(c))
		}
		return changes, nil
	}
	for range attempts {
		// Two writers of one new name race: the second finds the row of the first.
		if _, err = s.write(ctx, 0, write); !errdefs.IsAlreadyExists(err) {
			break
		}
		if err := s.catchUp(ctx); err != nil {
			return nil, err
		}
	}
	return stored, err
}

// RemoveImage makes the cluster forget a name of an image. It has the nodes delete the image unless
// another name or a service keeps it. Without force it refuses to remove the last name of an image
// that a service needs.
func (s *Server) RemoveImage(ctx context.Context, req *swarmv1.RemoveClusterImageRequest) (*swarmv1.RemoveResponse, error) {
	img, err := findImage(s.store.View(), req.GetId())
	if err != nil {
		return nil, err
	}
	if v := s.store.View(); names(v, img.GetDigest()) == 1 && !req.GetForce() {
		if used := usedBy(v, img.GetDigest()); len(used) > 0 {
			return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("image %s is used by service %s (by its tasks, or for a rollback): remove the service first, or remove the image with --force", img.GetName(), strings.Join(used, ", ")))
		}
	}
	_, err = s.write(ctx, 0, func(v *raftstore.View) ([]*swarmv1.Change, error) {
		row, ok := v.Images.Get(img.GetId())
		if !ok {
			return nil, nil
		}
		return []*swarmv1.Change{raftstore.Delete(row)}, nil
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("remove image %s: %w", img.GetName(), err)
	}
	s.dropCopies(ctx, img.GetDigest())
	return &swarmv1.RemoveResponse{}, nil
}

// dropPatience is for one holder: one that hangs must not keep the user waiting.
const dropPatience = 5 * time.Second

// dropCopies has the holders delete a digest that no name refers to any more. A node that cannot be asked cleans up by
// itself: nothing tells it to keep the copy.
func (s *Server) dropCopies(ctx context.Context, digest string) {
	v := s.store.View()
	if names(v, digest) > 0 || len(usedBy(v, digest)) > 0 {
		return
	}
	for c := range v.ImageCopies.Prefix(digest + "/") {
		conn, err := s.deps.Conn(c.GetNodeId())
		if err == nil {
			ask, cancel := context.WithTimeout(ctx, dropPatience)
			_, err = swarmv1.NewWorkerClient(conn).RemoveImage(ask, &swarmv1.RemoveImageRequest{Digest: digest})
			cancel()
		}
		if err != nil {
			s.log.Info("copy of a removed image stays for now", "node", c.GetNodeId(), "digest", digest, "err", err)
		}
	}
}

// names counts the names of an image.
func names(v *raftstore.View, digest string) (n int) {
	for img := range v.Images.All() {
		if img.GetDigest() == digest {
			n++
		}
	}
	return n
}

// usedBy names the services that need the digest: their revision, the one that a rollback leads to, or a live task's.
func usedBy(v *raftstore.View, digest string) []string {
	var out []string
	for svc := range v.Services.All() {
		numbers := []uint64{svc.GetRevision(), svc.GetPreviousRevision()}
		for t := range v.TasksOfService(svc.GetId()) {
			if !task.Terminal(v.Status(t.GetId()).GetState()) {
				numbers = append(numbers, t.GetRevision())
			}
		}
		if slices.ContainsFunc(numbers, func(n uint64) bool { return runs(v, svc.GetId(), n, digest) }) {
			out = append(out, svc.GetName())
		}
	}
	slices.Sort(out)
	return out
}

func runs(v *raftstore.View, service string, revision uint64, digest string) bool {
	rev, _ := v.Revision(service, revision)
	return strings.HasSuffix(rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetImage(), "@"+digest)
}

package image

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"swarm/manager/control/crud"
	"swarm/manager/control/digest"
	"swarm/manager/control/nodecall"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// Store is the image store of this manager's node.
type Store interface {
	// Load reads an OCI or Docker archive of size bytes. name is for an archive without one.
	Load(ctx context.Context, r io.Reader, size int64, name string, progress func(*swarmv1.ImageProgress)) ([]*swarmv1.Image, error)
	// Pull fetches an image.
	Pull(ctx context.Context, reference, registryAuth string, progress func(*swarmv1.ImageProgress)) (*swarmv1.Image, error)
	// Push sends a stored image to its registry. reference has the digest. Push returns ErrNotFound
	// if a part of the image is missing on the node.
	Push(ctx context.Context, reference, registryAuth string, progress func(*swarmv1.ImageProgress)) error
}

// Deps are what a Server needs.
type Deps struct {
	Log     *slog.Logger
	Store   *raftstore.Store
	Writer  *crud.Writer
	Nodes   *nodecall.Caller
	Digests *digest.Finder
	// Images is the image store of this manager's node. Nil: images cannot be loaded on this node,
	// nor pulled or pushed by it.
	Images Store
	// Login asks a registry whether it accepts the credentials. It returns ErrUnauthenticated if
	// not. Nil: the RPC Login returns ErrNotImplemented.
	Login func(ctx context.Context, registry, registryAuth string) error
}

// Server serves the RPCs of images.
type Server struct {
	log     *slog.Logger
	store   *raftstore.Store
	writer  *crud.Writer
	nodes   *nodecall.Caller
	digests *digest.Finder
	images  Store
	login   func(ctx context.Context, registry, registryAuth string) error
}

// New makes a Server.
func New(deps Deps) *Server {
	return &Server{
		log: deps.Log, store: deps.Store, writer: deps.Writer, nodes: deps.Nodes, digests: deps.Digests,
		images: deps.Images, login: deps.Login,
	}
}

// GetImage returns an image, and the nodes that hold it. The request names it by name, id or
// digest.
func (s *Server) GetImage(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.ImageInfo, error) {
	v := s.store.View()
	img, err := object.Images().Find(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return imageInfo(v, img), nil
}

// ListImages returns the images that the filter matches, ordered by name.
func (s *Server) ListImages(_ context.Context, req *swarmv1.ListRequest) (*swarmv1.ListImagesResponse, error) {
	v, out := s.store.View(), &swarmv1.ListImagesResponse{}
	for _, img := range object.Images().List(v, req.GetFilter()) {
		out.Images = append(out.Images, imageInfo(v, img))
	}
	return out, nil
}

func imageInfo(v *table.View, img *swarmv1.Image) *swarmv1.ImageInfo {
	return &swarmv1.ImageInfo{Image: img, NodeIds: object.ImageNodes(v, img.GetDigest())}
}

// RemoveImage removes a name of an image from the cluster. The nodes delete the image unless it has
// another name or a service needs it. Without force, RemoveImage returns ErrFailedPrecondition for
// the last name of an image that a service needs.
func (s *Server) RemoveImage(ctx context.Context, req *swarmv1.RemoveClusterImageRequest) (*swarmv1.RemoveResponse, error) {
	img, err := object.Images().Find(s.store.View(), req.GetId())
	if err != nil {
		return nil, err
	}
	v := s.store.View()
	if names, _ := object.ImageNames(v, img.GetDigest()); names == 1 && !req.GetForce() {
		if used := object.ImageUsers(v, img.GetDigest()); len(used) > 0 {
			return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("image %s is used by service %s (by its tasks, or for a rollback): remove the service first, or remove the image with --force", img.GetName(), strings.Join(used, ", ")))
		}
	}
	if err := object.Images().Remove(ctx, s.writer, img, nil); err != nil {
		return nil, fmt.Errorf("remove image %s: %w", img.GetName(), err)
	}
	s.dropCopies(ctx, img.GetDigest())
	return &swarmv1.RemoveResponse{}, nil
}

// dropTimeout limits the call to one node, so that a node which hangs does not keep the user
// waiting.
const dropTimeout = 5 * time.Second

// dropCopies tells the nodes to delete a digest, unless the digest has a name or a service needs
// it. A node that cannot be reached deletes its copy later by itself, as it does with every image
// that nobody needs.
func (s *Server) dropCopies(ctx context.Context, digest string) {
	v := s.store.View()
	if names, _ := object.ImageNames(v, digest); names > 0 || len(object.ImageUsers(v, digest)) > 0 {
		return
	}
	for c := range v.ImageCopies.Prefix(digest + "/") {
		conn, err := s.nodes.Conn(c.GetNodeId())
		if err == nil {
			ask, cancel := context.WithTimeout(ctx, dropTimeout)
			_, err = swarmv1.NewWorkerClient(conn).RemoveImage(ask, &swarmv1.RemoveImageRequest{Digest: digest})
			cancel()
		}
		if err != nil {
			s.log.Info("copy of a removed image stays for now", "node", c.GetNodeId(), "digest", digest, "err", err)
		}
	}
}

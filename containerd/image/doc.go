//go:build linux

// Package image is a node's store of images. It loads archives, pulls from other nodes and from
// registries, unpacks, and serves its blobs to other nodes. Store implements engine.ImageStore over
// the content and image stores of containerd.
//
// It owns the image records of containerd's namespace swarm. An image has a record
// REPOSITORY@DIGEST, and a further record for each tag by which it was pulled or loaded. A record
// is written when all blobs of at least one platform are in the store, so a record stands for a
// complete image. A lease protects the blobs of a pull or load in progress.
//
// Its subpackages do the transport: package registry talks to registries, package peer to other
// nodes, and package transfer moves the blobs of one image. The package never changes the content
// of a digest, and never serves a blob that belongs to no image. It does not authenticate other
// nodes, because the transport of their connections does.
//
// The worker calls Pull, Remove and List; the manager's control calls Load, Resolve, Push and
// Login; the daemon's listener for other nodes calls Handler. The package runs one goroutine for
// each fetch in progress, which several callers of Pull may share, and the goroutines of package
// transfer. Close ends them.
package image

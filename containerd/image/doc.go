//go:build linux

// Package image is a node's store of images: it loads archives, fetches from other nodes and from
// registries, unpacks, and serves what it holds to other nodes. It implements engine.ImageStore
// over containerd's content and image stores.
//
// It owns the image records of containerd's namespace swarm. An image has a record
// REPOSITORY@DIGEST, and one for each tag that was pulled or loaded; a record is written when all
// that it needs is here, so that a record means a whole image. Blobs on their way in are kept by a
// lease. It refuses to change what a digest names, to serve blobs that are of no image, and to
// authenticate peers: the transport has done that.
//
// The worker calls Pull, Remove and List; control Load and Resolve; the daemon's blob listener
// Handler. Its goroutines are one for each pull in progress, whatever the number of callers, and
// that pull's parallel downloads; Close ends them.
package image

// Package image serves the RPCs of images: list, inspect, load, pull, push, tag and remove, and the
// login at a registry. An image is a name with a digest; the cluster also knows which nodes hold
// the digest.
//
// The package believes a node that the node holds a digest, but not which digest a name has. It
// returns an error for the removal of the last name of an image that a service needs, unless the
// removal is forced. Package control is its only caller. Goroutines: those of PullImage, which end
// with the call.
package image

// Package image serves the RPCs of images: list, inspect, load, pull, push, tag and remove, and the
// login at a registry. An image is a name with a digest; the cluster also knows which nodes hold
// the digest.
//
// It believes a node only that it holds a digest, not what the digest is. It refuses to remove the
// last name of an image that a service needs, unless it is forced. Package control is its only
// caller. Goroutines: those of PullImage, which end with the call.
package image

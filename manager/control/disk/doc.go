// Package disk serves swarmv1.Disks: what the nodes have on their disks, the removal of what
// nothing uses, and the requests of nodes to remove images. It decides how many copies of an image
// must remain.
//
// It refuses to remove the last copies of a loaded image, which no registry has. Package control
// makes it. Goroutines: those of Usage and Prune, which end with the call.
package disk

// Package disk serves swarmv1.Disks: what the nodes have on their disks, the removal of what
// nothing uses, and the requests of nodes to remove images. It decides how many copies of an image
// must remain.
//
// The last copies of a loaded image must stay, because no registry has the image. Package control
// is the only caller. Goroutines: those of Usage and Prune, which end with the call.
package disk

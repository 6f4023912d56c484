// Package storage decides what stays on a node's disk: images, logs of former tasks, and containers
// that belong to no task.
//
// Disk.Run removes containers without a task, and images that have been unused for longer than
// Config.ImageAge. When the disk is too full, it also removes younger unused images and then logs
// of former tasks, the oldest first. It asks a manager before it removes an image, so that nodes do
// not remove the last copies at the same time. It keeps an image if a live task or a container uses
// it, if the managers want the node to keep it, or if it was fetched or used in the last 5 minutes.
// It removes nothing before the managers have said which tasks the node has.
//
// A Disk also implements the service with which managers look at the disk and clean it. A manager
// names the images to remove, and the Disk removes all of them except those that a live task or a
// container uses. Copies fetches the images that the managers want the node to keep.
//
// Volumes makes and removes volumes for the managers, and measures their sizes.
//
// Package worker creates the types and calls Run of each. Each Run is one goroutine; there are no
// others.
package storage

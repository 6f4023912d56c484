// Package storage decides what stays on a node's disk: images, logs of former tasks, and containers
// that belong to no task.
//
// Disk.Run removes containers without a task, images that have been unused for longer than
// Config.ImageAge, and, when the disk fills, unused images and then logs of former tasks, the
// oldest first. It asks a manager before it removes an image, so that nodes do not remove the last
// copies at the same time. It keeps images that a live task or a container uses, that the managers
// want the node to keep, and that came or were used in the last 5 minutes. It removes nothing
// before the managers have said which tasks the node has.
//
// A Disk also implements the service with which managers look at the disk and clean it. There the
// manager has chosen the images; those that a live task or a container uses stay even so. Copies
// fetches the images that the managers want the node to keep.
//
// Package worker creates both types and calls Run of each. Each Run is one goroutine; there are no
// others.
package storage

// Package disk knows how full the disk of a state folder is, and keeps room on it for what must go on when it is full.
//
// Two kinds of reserve: blocks beyond the end of a file that is written for ever, which nobody else can take (Ahead), and a
// file of nothing, which is removed when the disk is full and made again when there is room (Watch). The daemon runs one
// Watch for its state folder; raftstore and worker call Ahead for their files, and whoever unpacks an image WhileRoom.
// Goroutines: one of WhileRoom, which it waits for.
package disk

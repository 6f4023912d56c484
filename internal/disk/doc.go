// Package disk measures how full the disk of a state folder is, and reserves room on it for the
// writes that must succeed even when the disk is full.
//
// There are two kinds of reserve. Ahead reserves blocks beyond the end of a file that grows for
// ever; no other writer can use these blocks. Watch keeps an empty reserve file, deletes it when
// the disk is full, and creates it again when there is room. The daemon runs one Watch for its
// state folder. raftstore and worker call Ahead for their files. The code that unpacks an image
// runs in WhileRoom. WhileRoom runs one goroutine and waits for it.
package disk

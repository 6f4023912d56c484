// Package disk measures how full the disk of a state folder is, and reserves room on it for the
// writes that must succeed even when the disk is full.
//
// There are two kinds of reserve. ReserveBeyondEnd reserves blocks beyond the end of a file that
// grows; no other writer can use these blocks. Packages raftstore and worker call it for their
// files. Watch keeps a reserve file, deletes it when the disk is full, and creates it again when
// there is room. The daemon runs one Watch for its state folder.
//
// WhileRoom runs a function that writes data of unknown size, such as the unpacking of an image,
// and cancels it when the disk is full. It runs one goroutine and waits for it.
package disk

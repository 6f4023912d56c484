// Package logs keeps what containers write.
//
// A container's stdout and stderr are two plain files that its shim appends to, so output needs no daemon to go on. The
// store follows these sources, cuts them into lines, and writes each line as a record, with the time it was followed
// and its offset in the source, to segments: files of 10 MB, 5 a task. A record carries its offset, so a daemon that is
// killed goes on exactly behind the last record that it wrote: nothing is lost, nothing doubled. What has been copied is
// given back to the disk by punching holes into the source.
//
// The store refuses to interpret what is written, and to keep logs of finished tasks beyond a bound of bytes and age.
// worker calls it through its LogStore interface; cmd makes it. Goroutines, in Run: one reads inotify events for all
// sources, one polls those that cannot be watched, one copies; readers copy what they are about to read themselves. Linux only.
package logs

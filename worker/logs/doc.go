// Package logs keeps the output of containers.
//
// # Sources and segments
//
// The shim of a container appends its stdout and stderr to two plain files, the sources, so that
// containers can write while no daemon runs. A Store follows the sources, cuts them into lines, and
// writes each line as a record to segments: files of 10 MB, by default 5 for a task. A record has
// the time at which it was copied and its offset in the source. So a new daemon continues exactly
// after the last whole record: no line is lost or copied twice, and there is no separate file of
// positions that could contradict the records. The header of each segment has the offsets of both
// sources, because the last record of a stream may be in a segment that was deleted.
//
// The Store gives the space of copied bytes back to the disk: it makes them a hole, a part of a
// file that takes no space. The length of a source, holes included, only grows. On ext4 a file
// cannot be longer than 16 TiB, which a container that writes 100 MB/s reaches after two days. Its
// later output is lost.
//
// # Fast writers and readers
//
// A container that writes faster than its output is copied is not slowed down. If the bytes that
// are not copied yet are more than rotation keeps (max-size x max-file), the Store skips the oldest
// of them, up to the end of a line, and writes a record with the number of skipped bytes. Rotation
// would soon delete the skipped lines anyway. So each of the two sources of a task takes about
// max-size x max-file on the disk, the segments of the task take as much again, and the copying
// never falls far behind. While no daemon runs, nothing limits the sources.
//
// Readers read segments in steps of 256 KB at their own pace. Rotation does not wait for a slow
// reader: the reader then misses the deleted segments. A reader first copies what is in the source,
// so that the last lines of a task that failed are never missing.
//
// # Limits
//
// The log driver and its options come from the task's revision. If the revision names no driver,
// they come from the task's row, into which the planner copied the default of the cluster when it
// created the task. The Store keeps them in the task's folder. A container with the driver "none"
// gets no files. The Store removes the log of a removed task after a week, or earlier if the logs
// of all removed tasks exceed 1 GiB (--removed-logs-max-age, --removed-logs-max-size). It opens
// their folders only for a reader, so they cost neither memory nor time when the daemon starts. It
// removes a log without a line together with its task. It does not interpret what containers write.
//
// # Callers and goroutines
//
// cmd creates the Store, and package worker calls it as engine.LogStore. Run has six goroutines:
// one reads the events of one inotify instance for all sources, one polls sources that cannot be
// watched, one copies, one retries journals that could not be written, one removes old logs, and
// one closes the inotify instance when Run ends. Linux only.
package logs

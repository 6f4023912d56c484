// Package logs keeps the output of containers.
//
// # Sources and segments
//
// The shim of a container appends its stdout and stderr to two plain files, the sources, so output
// needs no daemon to go on. A Store follows the sources, cuts them into lines, and writes each line
// as a record to segments: files of 10 MB, by default 5 for a task. A record has the time at which
// it was copied and its offset in the source. A daemon that was killed therefore continues exactly
// behind the last whole record: no line is lost or doubled, and no separate file of positions has
// to agree with the records. The header of each segment has the offsets of both sources, for a
// stream whose last record is in a segment that was deleted.
//
// Copied space is given back to the disk by punching holes into the source. The length of a source
// only grows, with a hole in front. ext4 ends at 16 TiB, which is two days at 100 MB/s.
//
// # Fast writers and readers
//
// Nothing holds a container back that writes faster than its output is copied. If a backlog is
// larger than rotation keeps (max-size x max-file), the store skips it at once, up to the end of a
// line, and writes a record that says how many bytes it skipped: the lines behind it would have
// rotated them away in any case. So each stream takes at most that much of the disk in its source
// and as much again in segments, and catching up never takes long. While no daemon runs, nothing
// limits the sources.
//
// Readers read segments in steps of 256 KB at their own pace. Rotation overtakes a slow reader and
// does not wait for it. A reader copies what is in the source before it reads, so the last lines of
// a task that failed are never missing.
//
// # Limits
//
// The log driver and its options come from the task's revision, else from the task's row, to which
// the planner copies the default that the cluster had at that moment. They are kept in the task's
// folder. A container with the driver "none" gets no files. The logs of removed tasks stay for a
// week and within 1 GiB of the disk (--removed-logs-max-age, --removed-logs-max-size), whichever
// ends first. Their folders are opened only when somebody reads them, so they cost neither memory
// nor time at the start. Logs without a line are not kept. The store does not interpret what
// containers write.
//
// # Callers and goroutines
//
// cmd creates the Store, and package worker calls it as engine.LogStore. Run has six goroutines:
// one reads the events of one inotify instance for all sources, one polls sources that cannot be
// watched, one copies, one retries journals that could not be written, one removes old logs, and
// one closes the inotify instance when Run ends. Linux only.
package logs

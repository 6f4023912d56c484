// Package job serves the RPCs of the runs of jobs, and begins and ends the runs. A run is one
// iteration of a job, begun by its schedule or by a user. RunJobs, a duty of the leader, begins the
// scheduled runs, judges those that go on, and deletes old ones. The times of a schedule are those
// of package internal/schedule.
//
// A run is a row whose key has the scheduled time. The group that creates the row also writes the
// row of the service, with the number of the iteration and the scheduled time. So a time has at
// most one run, whatever leaders and clocks do: the time about which was decided last is stored,
// and only later ones are due.
//
// The planner makes the tasks of the current iteration. Package control is the only caller, and the
// manager runs RunJobs. The package starts no goroutine.
package job

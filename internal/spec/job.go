package spec

import (
	"time"

	"swarm/internal/schedule"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// DefaultRunHistory is how many runs of a job are kept.
	DefaultRunHistory = 20
	maxRunHistory     = 1000
	maxBackoffLimit   = 1_000_000
	minDeadline       = time.Second
)

// IsScheduled reports whether a service is a job that runs by a schedule.
func IsScheduled(s *swarmv1.ServiceSpec) bool { return s.GetJob().GetSchedule() != "" }

// ScheduleOf returns the schedule of a service. It has one if IsScheduled.
func ScheduleOf(s *swarmv1.ServiceSpec) (schedule.Schedule, error) {
	return schedule.Parse(s.GetJob().GetSchedule(), s.GetJob().GetTimezone())
}

// checkJob checks when a job runs, and when a run has failed.
func checkJob(s *swarmv1.ServiceSpec) error {
	j := s.GetJob()
	if j == nil {
		return nil
	}
	if !IsJob(s.GetMode()) {
		return invalid("schedule, backoff-limit, deadline and the like are for jobs: use the mode replicated-job or global-job")
	}
	if IsScheduled(s) {
		if _, err := ScheduleOf(s); err != nil {
			return invalid("%v", err)
		}
	} else if j.GetTimezone() != "" || j.GetOverlap() != 0 || j.GetCatchUp() != 0 {
		return invalid("timezone, overlap and catch-up go with a schedule: add --schedule, or leave them out")
	}
	if _, ok := swarmv1.JobPolicy_Overlap_name[int32(j.GetOverlap())]; !ok {
		return invalid("overlap %d is not known: use forbid, allow or replace", j.GetOverlap())
	}
	if _, ok := swarmv1.JobPolicy_CatchUp_name[int32(j.GetCatchUp())]; !ok {
		return invalid("catch-up %d is not known: use last, none or all", j.GetCatchUp())
	}
	if n := j.GetBackoffLimit(); n > maxBackoffLimit {
		return invalid("backoff limit %d is out of range: use 0 to %d", n, maxBackoffLimit)
	}
	if d := j.GetDeadline(); d != nil && d.AsDuration() < minDeadline {
		return invalid("deadline %s is too short: use at least %s", d.AsDuration(), minDeadline)
	}
	if n := j.GetHistoryLimit(); n > maxRunHistory {
		return invalid("run history limit %d is out of range: use 1 to %d", n, maxRunHistory)
	}
	return nil
}

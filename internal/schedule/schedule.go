// Package schedule computes the times at which a scheduled job runs, from an expression of cron and
// a time zone. It is pure: the present time is an argument. It runs no goroutine. Package spec
// checks expressions with it, and package manager/control/job starts runs by it.
//
// A time zone with daylight saving time has days of 23 and of 25 hours. A time that the clock skips
// does not exist, so a daily job at that time does not run on that day. A time that the clock shows
// twice counts once, the first time. If the hour of the expression is *, the job runs in every hour
// that exists, also in both of two with the same number.
package schedule

import (
	"fmt"
	"time"
	_ "time/tzdata" // A minimal host has no time zones.

	"github.com/robfig/cron/v3"
)

// Schedule is a parsed expression.
type Schedule struct {
	times    cron.Schedule
	location *time.Location
	// everyHour is set if the hour of the expression is *, or the expression is @every.
	everyHour bool
}

// Parse parses an expression of cron with five fields, or a word like @daily or @every 10m. zone is
// a name like Europe/Berlin; empty: UTC. It returns an error if the schedule never fires.
func Parse(expression, zone string) (Schedule, error) {
	if zone == "" {
		zone = "UTC"
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return Schedule{}, fmt.Errorf("time zone %q is not known: use a name like Europe/Berlin", zone)
	}
	parser := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)
	times, err := parser.Parse(expression)
	if err != nil {
		return Schedule{}, fmt.Errorf("schedule %q cannot be read: %w; write it like '*/5 * * * *' (minute, hour, day of month, month, day of week) or @daily", expression, err)
	}
	s := Schedule{times: times, location: location, everyHour: true}
	if fields, ok := times.(*cron.SpecSchedule); ok {
		fields.Location = location
		s.everyHour = fields.Hour&anyHour != 0
	}
	if times.Next(time.Unix(0, 0)).IsZero() { // An expression has no years, so any time will do.
		return Schedule{}, fmt.Errorf("schedule %q never fires: no such day comes in the next five years", expression)
	}
	return s, nil
}

// anyHour is set in the hours of a cron.SpecSchedule if they are *.
const anyHour = 1 << 63

// Next returns the first time after t; zero: there is none within five years.
func (s Schedule) Next(t time.Time) time.Time {
	for {
		t = s.times.Next(t)
		if t.IsZero() || s.everyHour || !s.isRepeated(t) {
			return t
		}
	}
}

// isRepeated reports whether the clock has shown the time of t already, because it was set back.
func (s Schedule) isRepeated(t time.Time) bool {
	here := t.In(s.location)
	_, offset := here.Zone()
	for _, back := range []time.Duration{30 * time.Minute, time.Hour, 2 * time.Hour} { // as much as clocks are set back
		earlier := t.Add(-back).In(s.location)
		if _, before := earlier.Zone(); time.Duration(before-offset)*time.Second == back {
			return true
		}
	}
	return false
}

// Due returns the times after last, up to and including now, the oldest first. If there are more
// than limit, it returns the newest limit of them. It looks at no more than maxDue times.
func (s Schedule) Due(last, now time.Time, limit int) []time.Time {
	var due []time.Time
	at := s.Next(last)
	for n := 0; !at.IsZero() && !at.After(now); n++ {
		if n == maxDue { // Go on close to now: older times would be dropped in any case.
			at = s.Next(now.Add(-now.Sub(at) / maxDue))
			n = 0
			continue
		}
		due = append(due, at)
		if len(due) > limit {
			due = due[1:]
		}
		at = s.Next(at)
	}
	return due
}

// maxDue bounds the times that Due looks at one after another.
const maxDue = 100_000

package flag

import (
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/cli/usage"
)

// maxSeconds is the largest number of seconds since 1970, because the nanoseconds must fit into 64
// bits. It is in the year 2262.
const maxSeconds = math.MaxInt64/1e9 - 1

// ParseTime parses a moment: RFC 3339, of which the end may be missing (such as 2006-01-02),
// seconds since 1970, or a duration before now, such as 42m. It returns nil for "". The error names
// flag.
func ParseTime(flag, s string, now time.Time) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return timestamppb.New(now.Add(-d)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return timestamppb.New(t), nil
		}
	}
	if t, ok := unixTime(s); ok {
		return timestamppb.New(t), nil
	}
	return nil, usage.Invalidf("--%s %q is not a time: use one such as 2013-01-02T13:23:37Z, or how long ago, such as 42m", flag, s)
}

// unixTime parses seconds since 1970, such as 1136073845.000000001. A floating point number could
// not hold the nanoseconds.
func unixTime(s string) (time.Time, bool) {
	whole, fraction, _ := strings.Cut(s, ".")
	if len(fraction) > 9 {
		fraction = fraction[:9]
	}
	sec, err := strconv.ParseInt(whole, 10, 64)
	nano, ferr := strconv.ParseUint(fraction+strings.Repeat("0", 9-len(fraction)), 10, 64)
	if err != nil || ferr != nil || math.Abs(float64(sec)) > maxSeconds {
		return time.Time{}, false
	}
	if strings.HasPrefix(whole, "-") {
		return time.Unix(sec, -int64(nano)), true
	}
	return time.Unix(sec, int64(nano)), true
}

package spec

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// Names of the log drivers.
const (
	LogLocal = "local"
	LogNone  = "none"
)

// Bounds and defaults of a task's log: as many files as max-file says, of max-size bytes each.
const (
	DefaultLogSize  = 10_000_000
	DefaultLogFiles = 5
	// minLogSize holds the longest record several times over.
	minLogSize  = 64 << 10
	maxLogSize  = 1 << 40
	maxLogFiles = 1000
)

// Log is what the options of a log driver mean.
type Log struct {
	Driver string
	// Size of each file in bytes, and how many files there are.
	Size  int64
	Files int
	// Labels and Env name what of the task is told with --details; the expressions name more. A nil one names nothing.
	Labels, Env           []string
	LabelsRegex, EnvRegex *regexp.Regexp
}

// logOptions are those of the local driver, with what they set.
func logOptions() map[string]func(*Log, string) error {
	list := func(to func(*Log) *[]string) func(*Log, string) error {
		return func(l *Log, value string) error {
			*to(l) = strings.Split(value, ",")
			return nil
		}
	}
	expression := func(name string, to func(*Log) **regexp.Regexp) func(*Log, string) error {
		return func(l *Log, value string) (err error) {
			if *to(l), err = regexp.Compile(value); err != nil {
				return invalid("log option %s=%s is no regular expression: %v", name, quote(value), err)
			}
			return nil
		}
	}
	return map[string]func(*Log, string) error{
		"max-size":     setLogSize,
		"max-file":     setLogFiles,
		"labels":       list(func(l *Log) *[]string { return &l.Labels }),
		"env":          list(func(l *Log) *[]string { return &l.Env }),
		"labels-regex": expression("labels-regex", func(l *Log) **regexp.Regexp { return &l.LabelsRegex }),
		"env-regex":    expression("env-regex", func(l *Log) **regexp.Regexp { return &l.EnvRegex }),
	}
}

func setLogSize(l *Log, value string) error {
	lower := strings.ToLower(value)
	digits := strings.TrimRight(lower, "kmgib")
	n, err := strconv.ParseFloat(digits, 64)
	shift, ok := map[string]int{"": 0, "b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20, "g": 30, "gb": 30, "gib": 30}[lower[len(digits):]]
	size := n * float64(int64(1)<<shift)
	switch {
	case err != nil || !ok || !(n >= 0):
		return invalid("log option max-size=%s is not a size: use a number with k, m or g, such as 10m", quote(value))
	case size < minLogSize || size > maxLogSize:
		return invalid("log option max-size=%s is out of range: use 64k to 1024g", quote(value))
	}
	l.Size = int64(size)
	return nil
}

func setLogFiles(l *Log, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > maxLogFiles {
		return invalid("log option max-file=%s is out of range: use 1 to %d files", quote(value), maxLogFiles)
	}
	l.Files = n
	return nil
}

// ParseLog reads a driver and its options; nil is the default one.
func ParseLog(d *swarmv1.Driver) (Log, error) {
	l := Log{Driver: d.GetName(), Size: DefaultLogSize, Files: DefaultLogFiles}
	options := logOptions()
	switch l.Driver {
	case "":
		l.Driver = LogLocal
	case LogLocal:
	case LogNone:
		if len(d.GetOptions()) > 0 {
			return l, invalid("log driver none has no options: leave them out, or use the driver local")
		}
		return l, nil
	default:
		return l, invalid("log driver %s is not one of this build: use local (options %s) or none", quote(l.Driver), words(options))
	}
	for _, key := range slices.Sorted(maps.Keys(d.GetOptions())) {
		set, ok := options[key]
		if !ok {
			return l, invalid("log option %s is none of the driver local: use %s", quote(key), words(options))
		}
		if err := set(&l, d.Options[key]); err != nil {
			return l, err
		}
	}
	return l, nil
}

func words[V any](m map[string]V) string { return strings.Join(slices.Sorted(maps.Keys(m)), ", ") }

func checkLog(d *swarmv1.Driver) error {
	_, err := ParseLog(d)
	return err
}

// LogDriver of a task: its revision's, else what was the cluster's default when it was made. Nil: the default one.
func LogDriver(t *swarmv1.Task, r *swarmv1.Revision) *swarmv1.Driver {
	if d := r.GetSpec().GetTaskTemplate().GetLogDriver(); d != nil {
		return d
	}
	return t.GetLogDriver()
}

// Details picks what of a task's labels and environment ("NAME=value") goes with its log.
func (l Log) Details(labels map[string]string, env []string) map[string]string {
	out := map[string]string{}
	for key, value := range labels {
		if slices.Contains(l.Labels, key) || l.LabelsRegex != nil && l.LabelsRegex.MatchString(key) {
			out[key] = value
		}
	}
	for _, e := range env {
		key, value, _ := strings.Cut(e, "=")
		if slices.Contains(l.Env, key) || l.EnvRegex != nil && l.EnvRegex.MatchString(key) {
			out[key] = value
		}
	}
	return out
}

package spec

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// The names of the log drivers.
const (
	LogLocal = "local"
	LogNone  = "none"
)

// The defaults of the log of a task: DefaultLogFiles files of DefaultLogSize bytes each.
const (
	DefaultLogSize  = 10_000_000
	DefaultLogFiles = 5
	// minLogSize has room for several of the longest records.
	minLogSize  = 64 << 10
	maxLogSize  = 1 << 40
	maxLogFiles = 1000
)

// Log is the parsed form of a log driver and its options.
type Log struct {
	Driver string
	// Size is the size of each file in bytes. Files is the number of files.
	Size  int64
	Files int
	// Labels and Env name the labels and environment variables of the task that --details shows.
	// LabelsRegex and EnvRegex select more of them; nil selects none.
	Labels, Env           []string
	LabelsRegex, EnvRegex *regexp.Regexp
}

// logOptions returns the options of the driver local, each with the function that parses it.
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
				return invalid("log option %s=%s is not a regular expression: %v", name, quote(value), err)
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

// ParseLog parses a driver and its options. nil is the default driver.
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
		return l, invalid("log driver %s is not known: use local (options %s) or none", quote(l.Driver), sortedKeys(options))
	}
	for _, key := range slices.Sorted(maps.Keys(d.GetOptions())) {
		set, ok := options[key]
		if !ok {
			return l, invalid("log option %s is not known to the driver local: use %s", quote(key), sortedKeys(options))
		}
		if err := set(&l, d.Options[key]); err != nil {
			return l, err
		}
	}
	return l, nil
}

func sortedKeys[V any](m map[string]V) string { return strings.Join(slices.Sorted(maps.Keys(m)), ", ") }

func checkLog(d *swarmv1.Driver) error {
	_, err := ParseLog(d)
	return err
}

// LogDriver returns the log driver of a task: the driver of its revision, or else the default of
// the cluster at the time when the task was created. nil is the default driver.
func LogDriver(t *swarmv1.Task, r *swarmv1.Revision) *swarmv1.Driver {
	if d := r.GetSpec().GetTaskTemplate().GetLogDriver(); d != nil {
		return d
	}
	return t.GetLogDriver()
}

// Details returns the labels and environment variables of a task that --details shows. env has
// entries "NAME=value".
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

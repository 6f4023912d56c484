package flag

import (
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Availabilities are the values of --availability.
var Availabilities = []string{"active", "pause", "drain"}

// ParseAvailability returns the availability that one of Availabilities names.
func ParseAvailability(word string) swarmv1.NodeSpec_Availability {
	return swarmv1.NodeSpec_Availability(swarmv1.NodeSpec_Availability_value[strings.ToUpper(word)])
}

// LogDrivers are the values of --log-driver.
var LogDrivers = []string{spec.LogLocal, spec.LogNone}

// CheckWord refuses a value that is empty or has blanks.
func CheckWord(s string) error {
	if s == "" || strings.ContainsAny(s, " \t\n") {
		return fmt.Errorf("use a word without blanks")
	}
	return nil
}

// List is a flag that may be given several times. A value is not split at commas. Kind is the word
// for a value in the help. Check returns an error for a value that is refused, and may be nil.
type List struct {
	Kind   string
	Values []string
	Check  func(string) error
}

// Type implements pflag.Value.
func (l *List) Type() string { return l.Kind }

// String implements pflag.Value.
func (l *List) String() string {
	if l == nil || len(l.Values) == 0 {
		return ""
	}
	return fmt.Sprint(l.Values)
}

// Set adds a value.
func (l *List) Set(s string) error {
	if l.Check != nil {
		if err := l.Check(s); err != nil {
			return err
		}
	}
	l.Values = append(l.Values, s)
	return nil
}

// Parsed is a flag that may be given several times, whose values are parsed when the flag is read.
// The error of a value then names the flag.
type Parsed[T any] struct {
	Kind   string
	Parse  func(string) (T, error)
	Values []T
	text   []string
}

// Type implements pflag.Value.
func (p *Parsed[T]) Type() string { return p.Kind }

// String implements pflag.Value.
func (p *Parsed[T]) String() string {
	if p == nil || len(p.text) == 0 {
		return ""
	}
	return fmt.Sprint(p.text)
}

// Set parses a value and adds it.
func (p *Parsed[T]) Set(s string) error {
	v, err := p.Parse(s)
	if err != nil {
		return err
	}
	p.Values, p.text = append(p.Values, v), append(p.text, s)
	return nil
}

// Choice is a flag that takes one of a few words. Value is "" until the flag is given, unless it
// has a default.
type Choice struct {
	Value   string
	Choices []string
}

// Type implements pflag.Value.
func (c *Choice) Type() string { return "string" }

// String implements pflag.Value.
func (c *Choice) String() string { return c.Value }

// Set takes one of the choices.
func (c *Choice) Set(s string) error {
	if !slices.Contains(c.Choices, s) {
		return fmt.Errorf("use one of %s", strings.Join(c.Choices, ", "))
	}
	c.Value = s
	return nil
}

// Rate is an amount of bytes per second, such as "50MB/s" or "10m": with decimal units.
type Rate struct{ PerSecond int64 }

// Type implements pflag.Value.
func (r *Rate) Type() string { return "bytes/s" }

// String returns a text that Set parses to the same rate, "" for 0.
func (r *Rate) String() string {
	if r.PerSecond == 0 {
		return ""
	}
	text := units.HumanSize(float64(r.PerSecond))
	if n, err := units.FromHumanSize(text); err != nil || n != r.PerSecond { // HumanSize has rounded.
		text = strconv.FormatInt(r.PerSecond, 10)
	}
	return text + "/s"
}

// Set parses a rate; it is at least 0.
func (r *Rate) Set(s string) error {
	n, err := units.FromHumanSize(strings.TrimSuffix(s, "/s"))
	if err != nil || n < 0 {
		return fmt.Errorf("use a number of bytes with an optional unit, such as 50MB/s")
	}
	r.PerSecond = n
	return nil
}

// Memory is an amount of bytes, such as "512m" or "2GiB": with binary units. The value -1 is
// allowed if Negative is set.
type Memory struct {
	Bytes    int64
	Negative bool
}

// Type implements pflag.Value.
func (m *Memory) Type() string { return "bytes" }

// String returns a text that Set parses to the same amount, "" for 0.
func (m *Memory) String() string {
	if m.Bytes == 0 {
		return ""
	}
	text := units.BytesSize(float64(m.Bytes))
	if n, err := units.RAMInBytes(text); err != nil || n != m.Bytes { // rounded, or -1
		text = strconv.FormatInt(m.Bytes, 10)
	}
	return text
}

// Set parses an amount.
func (m *Memory) Set(s string) error {
	if m.Negative && s == "-1" {
		m.Bytes = -1
		return nil
	}
	n, err := units.RAMInBytes(s)
	switch {
	case err == nil && n < 0 && !strings.HasPrefix(s, "-"):
		return fmt.Errorf("that is more than any machine has")
	case (err != nil || n < 0) && m.Negative:
		return fmt.Errorf("use a number of bytes with an optional unit, b, k, m or g, or -1 for no limit")
	case err != nil || n < 0:
		return fmt.Errorf("use a number of bytes with an optional unit: b, k, m or g")
	}
	m.Bytes = n
	return nil
}

// CPUs is a decimal number of CPUs, such as "0.5", kept in billionths.
type CPUs struct{ Nano int64 }

// Type implements pflag.Value.
func (c *CPUs) Type() string { return "decimal" }

// String returns a text that Set parses to the same number, "" for 0.
func (c *CPUs) String() string {
	if c.Nano == 0 {
		return ""
	}
	return strings.TrimSuffix(strings.TrimRight(big.NewRat(c.Nano, 1e9).FloatString(9), "0"), ".")
}

// Set parses a number of at least 0 with at most 9 decimals.
func (c *CPUs) Set(s string) error {
	r, ok := new(big.Rat).SetString(s)
	if !ok || r.Sign() < 0 {
		return fmt.Errorf("use a number of CPUs, such as 0.5")
	}
	r.Mul(r, big.NewRat(1e9, 1))
	if !r.IsInt() {
		return fmt.Errorf("use at most 9 decimals")
	}
	if !r.Num().IsInt64() {
		return fmt.Errorf("that is more than any machine has")
	}
	c.Nano = r.Num().Int64()
	return nil
}

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

var Availabilities = []string{"active", "pause", "drain"}

func ParseAvailability(word string) swarmv1.NodeSpec_Availability {
	return swarmv1.NodeSpec_Availability(swarmv1.NodeSpec_Availability_value[strings.ToUpper(word)])
}

// LogDrivers are the values of --log-driver.
var LogDrivers = []string{spec.LogLocal, spec.LogNone}

// CheckWord wants one word.
func CheckWord(s string) error {
	if s == "" || strings.ContainsAny(s, " \t\n") {
		return fmt.Errorf("use a word without blanks")
	}
	return nil
}

// The kinds of flag values, with the names that Docker's help gives them.

// List is a flag that may be given again; its values are not split at commas.
type List struct {
	Kind   string
	Values []string
	Check  func(string) error
}

func (l *List) Type() string { return l.Kind }

func (l *List) String() string {
	if l == nil || len(l.Values) == 0 {
		return ""
	}
	return fmt.Sprint(l.Values)
}

func (l *List) Set(s string) error {
	if l.Check != nil {
		if err := l.Check(s); err != nil {
			return err
		}
	}
	l.Values = append(l.Values, s)
	return nil
}

// Parsed is a list whose values are understood at once, so that what is wrong with one is said of the flag.
type Parsed[T any] struct {
	Kind   string
	Parse  func(string) (T, error)
	Values []T
	text   []string
}

func (p *Parsed[T]) Type() string { return p.Kind }

func (p *Parsed[T]) String() string {
	if p == nil || len(p.text) == 0 {
		return ""
	}
	return fmt.Sprint(p.text)
}

func (p *Parsed[T]) Set(s string) error {
	v, err := p.Parse(s)
	if err != nil {
		return err
	}
	p.Values, p.text = append(p.Values, v), append(p.text, s)
	return nil
}

// Choice is a flag with few values.
type Choice struct {
	Value   string
	Choices []string
}

func (c *Choice) Type() string { return "string" }

func (c *Choice) String() string { return c.Value }

func (c *Choice) Set(s string) error {
	if !slices.Contains(c.Choices, s) {
		return fmt.Errorf("use one of %s", strings.Join(c.Choices, ", "))
	}
	c.Value = s
	return nil
}

// Rate is an amount of bytes a second: "50MB/s", "10m".
type Rate struct{ PerSecond int64 }

func (r *Rate) Type() string { return "bytes/s" }

func (r *Rate) String() string {
	if r.PerSecond == 0 {
		return ""
	}
	text := units.HumanSize(float64(r.PerSecond))
	if n, err := units.FromHumanSize(text); err != nil || n != r.PerSecond { // It was rounded.
		text = strconv.FormatInt(r.PerSecond, 10)
	}
	return text + "/s"
}

func (r *Rate) Set(s string) error {
	n, err := units.FromHumanSize(strings.TrimSuffix(s, "/s"))
	if err != nil || n < 0 {
		return fmt.Errorf("use a number of bytes with an optional unit, such as 50MB/s")
	}
	r.PerSecond = n
	return nil
}

// Memory is an amount of bytes: "512m", "2GiB".
type Memory struct {
	Bytes    int64
	Negative bool // -1 is allowed
}

func (m *Memory) Type() string { return "bytes" }

func (m *Memory) String() string {
	if m.Bytes == 0 {
		return ""
	}
	text := units.BytesSize(float64(m.Bytes))
	if n, err := units.RAMInBytes(text); err != nil || n != m.Bytes { // It was rounded, or is -1.
		text = strconv.FormatInt(m.Bytes, 10)
	}
	return text
}

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

// CPUs is a decimal number of CPUs, kept in billionths.
type CPUs struct{ Nano int64 }

func (c *CPUs) Type() string { return "decimal" }

func (c *CPUs) String() string {
	if c.Nano == 0 {
		return ""
	}
	return strings.TrimSuffix(strings.TrimRight(big.NewRat(c.Nano, 1e9).FloatString(9), "0"), ".")
}

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

package cli

import (
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"

	"github.com/docker/go-units"

	"swarm/cli/usage"
)

// The kinds of flag values, with the names that Docker's help gives them.

// list is a flag that may be given again; its values are not split at commas.
type list struct {
	kind   string
	values []string
	check  func(string) error
}

func (l *list) Type() string { return l.kind }

func (l *list) String() string {
	if l == nil || len(l.values) == 0 {
		return ""
	}
	return fmt.Sprint(l.values)
}

func (l *list) Set(s string) error {
	if l.check != nil {
		if err := l.check(s); err != nil {
			return err
		}
	}
	l.values = append(l.values, s)
	return nil
}

// parsed is a list whose values are understood at once, so that what is wrong with one is said of the flag.
type parsed[T any] struct {
	kind   string
	parse  func(string) (T, error)
	values []T
	text   []string
}

func (p *parsed[T]) Type() string { return p.kind }

func (p *parsed[T]) String() string {
	if p == nil || len(p.text) == 0 {
		return ""
	}
	return fmt.Sprint(p.text)
}

func (p *parsed[T]) Set(s string) error {
	v, err := p.parse(s)
	if err != nil {
		return err
	}
	p.values, p.text = append(p.values, v), append(p.text, s)
	return nil
}

// choice is a flag with few values.
type choice struct {
	value   string
	choices []string
}

func (c *choice) Type() string { return "string" }

func (c *choice) String() string { return c.value }

func (c *choice) Set(s string) error {
	if !slices.Contains(c.choices, s) {
		return fmt.Errorf("use one of %s", strings.Join(c.choices, ", "))
	}
	c.value = s
	return nil
}

// rate is an amount of bytes a second: "50MB/s", "10m".
type rate struct{ perSecond int64 }

func (r *rate) Type() string { return "bytes/s" }

func (r *rate) String() string {
	if r.perSecond == 0 {
		return ""
	}
	return units.HumanSize(float64(r.perSecond)) + "/s"
}

func (r *rate) Set(s string) error {
	n, err := units.FromHumanSize(strings.TrimSuffix(s, "/s"))
	if err != nil || n < 0 {
		return fmt.Errorf("use a number of bytes with an optional unit, such as 50MB/s")
	}
	r.perSecond = n
	return nil
}

// memory is an amount of bytes: "512m", "2GiB".
type memory struct {
	bytes    int64
	negative bool // -1 is allowed
}

func (m *memory) Type() string { return "bytes" }

func (m *memory) String() string {
	if m.bytes == 0 {
		return ""
	}
	return units.BytesSize(float64(m.bytes))
}

func (m *memory) Set(s string) error {
	if m.negative && s == "-1" {
		m.bytes = -1
		return nil
	}
	n, err := units.RAMInBytes(s)
	switch {
	case err == nil && n < 0 && !strings.HasPrefix(s, "-"):
		return fmt.Errorf("that is more than any machine has")
	case (err != nil || n < 0) && m.negative:
		return fmt.Errorf("use a number of bytes with an optional unit, b, k, m or g, or -1 for no limit")
	case err != nil || n < 0:
		return fmt.Errorf("use a number of bytes with an optional unit: b, k, m or g")
	}
	m.bytes = n
	return nil
}

// cpus is a decimal number of CPUs, kept in billionths.
type cpus struct{ nano int64 }

func (c *cpus) Type() string { return "decimal" }

func (c *cpus) String() string {
	if c.nano == 0 {
		return ""
	}
	return big.NewRat(c.nano, 1e9).FloatString(3)
}

func (c *cpus) Set(s string) error {
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
	c.nano = r.Num().Int64()
	return nil
}

// words is a command line in one string, split as a shell splits it.
type words struct {
	values []string
	set    bool
}

func (w *words) Type() string { return "command" }

func (w *words) String() string { return strings.Join(w.values, " ") }

func (w *words) Set(s string) (err error) {
	w.values, err = splitWords(s)
	w.set = true
	return err
}

// splitWords splits at blanks outside of quotes; a backslash takes the next character as it is, except in single quotes.
func splitWords(s string) ([]string, error) {
	var out []string
	var word strings.Builder
	var quote rune
	started, escaped := false, false
	for _, r := range s {
		switch {
		case escaped:
			if quote == '"' && r != '"' && r != '\\' && r != '$' && r != '`' {
				word.WriteByte('\\')
			}
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, started = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, started = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if started {
				out = append(out, word.String())
			}
			word.Reset()
			started = false
		default:
			word.WriteRune(r)
			started = true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("a quote is not closed")
	}
	if started {
		out = append(out, word.String())
	}
	return out, nil
}

// keyValue splits "key=value"; without "=" the value is empty.
func keyValue(s string) (key, value string) {
	key, value, _ = strings.Cut(s, "=")
	return key, value
}

func checkLabelFlag(s string) error {
	if key, _ := keyValue(s); strings.TrimSpace(key) == "" {
		return fmt.Errorf("use KEY=VALUE")
	}
	return nil
}

// checkKeyValue wants both halves.
func checkKeyValue(s string) error {
	if key, _, ok := strings.Cut(s, "="); !ok || key == "" {
		return fmt.Errorf("use KEY=VALUE")
	}
	return nil
}

// environment resolves --env and --env-file: a name alone takes the caller's value and is left out when there is none.
func environment(env, files []string, getenv func(string) string) ([]string, error) {
	var out []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, usage.Invalidf("environment file %s cannot be read: %s", file, usage.Reason(err.Error()))
		}
		n := 0
		for line := range strings.Lines(strings.TrimPrefix(string(data), "\ufeff")) {
			n++
			line = strings.TrimLeft(strings.TrimRight(line, "\r\n"), " \t")
			if line == "" || line[0] == '#' {
				continue
			}
			if key, _ := keyValue(line); key == "" || strings.ContainsAny(key, " \t") {
				return nil, usage.Invalidf("environment file %s, line %d: the name %q is empty or has blanks; use NAME=VALUE", file, n, key)
			}
			out = appendEnv(out, line, getenv)
		}
	}
	for _, e := range env {
		out = appendEnv(out, e, getenv)
	}
	return out, nil
}

func appendEnv(out []string, e string, getenv func(string) string) []string {
	if strings.Contains(e, "=") {
		return replaceEnv(out, e)
	}
	if v := getenv(e); v != "" {
		return replaceEnv(out, e+"="+v)
	}
	return out
}

// replaceEnv keeps one value a name: the last, in the first one's place.
func replaceEnv(env []string, e string) []string {
	key, _ := keyValue(e)
	for i, old := range env {
		if k, _ := keyValue(old); k == key {
			env[i] = e
			return env
		}
	}
	return append(env, e)
}

func checkEnv(s string) error {
	if key, _ := keyValue(s); key == "" {
		return fmt.Errorf("use NAME=VALUE, or NAME to take the value from your environment")
	}
	return nil
}

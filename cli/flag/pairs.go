package flag

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"swarm/cli/usage"
)

// AddPairs sets the pairs KEY=VALUE in m and returns m. If m is nil, it makes a map. A pair without
// "=" has the value "".
func AddPairs(m map[string]string, pairs []string) map[string]string {
	for _, p := range pairs {
		if m == nil {
			m = map[string]string{}
		}
		k, v := KeyValue(p)
		m[k] = v
	}
	return m
}

// fields splits "a=b,c=d". A field that holds a comma or a line break is written in double quotes,
// as in CSV. The value is one record: fields refuses text after it.
func fields(s string) ([]string, error) {
	r := csv.NewReader(strings.NewReader(s))
	out, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("not a list of KEY=VALUE with commas between them")
	}
	if _, err := r.Read(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("the value has more than one line: put a field with a line break in double quotes")
	}
	return out, nil
}

// parseBool returns the value of a switch in a list of pairs. A switch without a value is on.
func parseBool(key, value string) (bool, error) {
	if value == "" {
		return true, nil
	}
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%s=%s: use true or false", key, value)
	}
	return b, nil
}

// KeyValue splits "key=value". Without "=" the value is "".
func KeyValue(s string) (key, value string) {
	key, value, _ = strings.Cut(s, "=")
	return key, value
}

// CheckLabel refuses a label without a key.
func CheckLabel(s string) error {
	if key, _ := KeyValue(s); strings.TrimSpace(key) == "" {
		return fmt.Errorf("use KEY=VALUE")
	}
	return nil
}

// CheckKeyValue refuses a value that is not KEY=VALUE with a key that is not empty.
func CheckKeyValue(s string) error {
	if key, _, ok := strings.Cut(s, "="); !ok || key == "" {
		return fmt.Errorf("use KEY=VALUE")
	}
	return nil
}

// Environment returns the variables of the files, then those of env, as NAME=VALUE, each name once
// with its last value. A name without "=" takes the value that getenv returns, and is left out if
// that is "". Lines of files that are empty or begin with "#" are comments. It returns an invalid
// argument error if a file cannot be read, or a line of it has no valid name.
func Environment(env, files []string, getenv func(string) string) ([]string, error) {
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
			if key, _ := KeyValue(line); key == "" || strings.ContainsAny(key, " \t") {
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
		return ReplaceEnv(out, e)
	}
	if v := getenv(e); v != "" {
		return ReplaceEnv(out, e+"="+v)
	}
	return out
}

// ReplaceEnv sets the variable e, which is NAME=VALUE, in env: in the place of a variable of the
// same name, else at the end.
func ReplaceEnv(env []string, e string) []string {
	key, _ := KeyValue(e)
	for i, old := range env {
		if k, _ := KeyValue(old); k == key {
			env[i] = e
			return env
		}
	}
	return append(env, e)
}

// CheckEnv refuses a variable without a name.
func CheckEnv(s string) error {
	if key, _ := KeyValue(s); key == "" {
		return fmt.Errorf("use NAME=VALUE, or NAME to take the value from your environment")
	}
	return nil
}

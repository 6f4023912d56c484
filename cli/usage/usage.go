package usage

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Errorf returns the error of a command line that cannot be understood. Its text is one line, which
// ends with the command that shows the help of c.
func Errorf(c *cobra.Command, format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...) + fmt.Sprintf(" (see '%s --help')", c.CommandPath()))
}

// FlagReason returns the reason why pflag refused a flag. If pflag itself has parsed the value, the
// reason is in the words of this program.
func FlagReason(err error) string {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return strings.TrimSuffix(err.Error(), "\n")
	}
	kind, quoted := bad.GetFlag().Value.Type(), fmt.Sprintf("%q", bad.GetValue())
	name := "--" + bad.GetFlag().Name
	hints := map[string]string{
		"uint64": "use a whole number, 0 or more", "uint32": "use a whole number, 0 or more", "uint16": "use a whole number, 0 or more", "uint": "use a whole number, 0 or more",
		"int64": "use a whole number", "int": "use a whole number", "float64": "use a number", "bool": "use true or false",
		"duration": "use a duration such as 500ms, 90s, 5m or 1h30m",
	}
	hint, ok := hints[kind]
	switch {
	case ok && errors.Is(bad, strconv.ErrRange):
		return fmt.Sprintf("invalid argument %s for %q flag: it is out of range", quoted, name)
	case ok:
		return fmt.Sprintf("invalid argument %s for %q flag: %s", quoted, name, hint)
	case strings.Contains(bad.Unwrap().Error(), quoted):
		return name + ": " + bad.Unwrap().Error() // The error names the value already.
	}
	return strings.TrimSuffix(err.Error(), "\n")
}

// Invalidf returns the error of a value that no cluster would accept.
func Invalidf(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// ExactArgs refuses a command line that does not have exactly n arguments.
func ExactArgs(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return argsError(c, "exactly "+arguments(n), len(args))
	}
}

// MinArgs refuses a command line that has fewer than n arguments.
func MinArgs(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return argsError(c, "at least "+arguments(n), len(args))
	}
}

// MaxArgs refuses a command line that has more than n arguments.
func MaxArgs(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		return argsError(c, "at most "+arguments(n), len(args))
	}
}

// NoArgs refuses a command line that has arguments.
func NoArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return argsError(c, "no arguments", len(args))
}

func argsError(c *cobra.Command, want string, got int) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("'%s' takes %s, got %d: usage is %s", c.CommandPath(), want, got, c.UseLine()))
}

func arguments(n int) string {
	if n == 1 {
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", n)
}

// Reason returns the last part of an error's text: the words after the last colon, without quotes.
func Reason(s string) string {
	if i := strings.LastIndex(s, ": "); i >= 0 {
		return strings.Trim(s[i+2:], `"`)
	}
	return strings.Trim(s, `"`)
}

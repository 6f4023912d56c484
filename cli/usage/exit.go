package usage

import (
	"errors"
	"fmt"
)

// CodeBadFlag is the exit code for an unknown flag or a value that a flag does not take, as in
// Docker. Other wrong command lines exit with 1.
const CodeBadFlag = 125

// codedError is an error that ends the process with a code of its own.
type codedError struct {
	error
	code int
}

// Unwrap returns the error that has the code.
func (e codedError) Unwrap() error { return e.error }

// WithCode returns err together with the exit code of a process that fails with err.
func WithCode(err error, code int) error { return codedError{err, code} }

// ExitCode returns the exit code of a process that fails with err, and the error to report. If err
// wraps an error of WithCode, they are the code and the error that WithCode was called with. If
// not, they are 1 and err.
func ExitCode(err error) (code int, reported error) {
	var coded codedError
	if errors.As(err, &coded) {
		return coded.code, coded.error
	}
	return 1, err
}

// ExitError ends the process with a code and prints nothing, because the command has printed its
// reason already.
type ExitError struct{ Code int }

// Error implements error.
func (e ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Code) }

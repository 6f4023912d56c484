package template

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	texttemplate "text/template"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// Files gives a template in a secret or config the files of its container. The keys are the names
// of the targets, as the service gives them.
type Files struct {
	Secrets, Configs map[string][]byte
}

// ExpandFile returns the text of a secret or config that is a template. rev is a result of Expand.
// The template has the fields of Docker's, and the functions secret, config and env, which return
// the text of a target and the value of a variable of the service. maxSize limits the result in
// bytes. The errors do not contain any of the data.
func ExpandFile(data []byte, rev *swarmv1.Revision, task *swarmv1.Task, node Node, files Files, maxSize int) ([]byte, error) {
	env := func(name string) (string, error) {
		for _, e := range rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetEnv() {
			if key, value, _ := strings.Cut(e, "="); key == name {
				return value, nil
			}
		}
		return "", nil
	}
	funcs := functions()
	funcs["secret"], funcs["config"], funcs["env"] = lookup("secret", files.Secrets), lookup("config", files.Configs), env
	t, err := texttemplate.New("").Option("missingkey=zero").Funcs(funcs).Parse(string(data))
	if err != nil {
		return nil, fileError(err)
	}
	b := boundedText{limit: maxSize}
	if err := t.Execute(&b, dataOf(rev, task, node)); err != nil {
		return nil, fileError(err)
	}
	return []byte(b.text.String()), nil
}

// CheckFile returns an error if the data of a secret or config is not a template. The error does
// not contain any of the data.
func CheckFile(data []byte) error {
	none := func(string) (string, error) { return "", nil }
	funcs := functions()
	funcs["secret"], funcs["config"], funcs["env"] = none, none, none
	if _, err := texttemplate.New("").Funcs(funcs).Parse(string(data)); err != nil {
		return fileError(err)
	}
	return nil
}

func lookup(kind string, files map[string][]byte) func(string) (string, error) {
	return func(name string) (string, error) {
		data, ok := files[name]
		if !ok {
			return "", missingFile(kind)
		}
		return string(data), nil
	}
}

// missingFile is the kind of a file that a template asks for and the service does not have.
type missingFile string

func (m missingFile) Error() string { return "the service has no " + string(m) + " with this target" }

// lineNumber finds the line in an error of text/template.
var lineNumber = regexp.MustCompile(`^template: :(\d+)`)

// fileError returns the line of an error of text/template. Its text may quote a secret.
func fileError(err error) error {
	var long tooLong
	if errors.As(err, &long) {
		return errdefs.ErrInvalidArgument.WithMessage(long.Error())
	}
	line := "?"
	if m := lineNumber.FindStringSubmatch(err.Error()); m != nil {
		line = m[1]
	}
	why := "use the fields and functions that Docker has"
	var missing missingFile
	if errors.As(err, &missing) {
		why = missing.Error()
	}
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("line %s: %s", line, why))
}

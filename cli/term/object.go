package term

import (
	"bytes"
	"encoding/json"
	"io"
	"text/template"
)

// Object is a JSON object whose members keep their order.
type Object []Member

// Member is one member of an object. It is an alias of an unnamed struct so that other packages
// may write a member as {"ID", id}.
type Member = struct {
	Name  string
	Value any
}

// MarshalJSON encodes the members in their order, without those that are not set.
func (o Object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for _, m := range o {
		if _, ok := m.Value.(absent); ok {
			continue
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(m.Name)
		if err != nil {
			return nil, err
		}
		value, err := marshalJSON(m.Value, "")
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// plain returns the value for use in a template: objects become maps. Members that are not set have
// the zero values of their types there.
func plain(v any) any {
	switch v := v.(type) {
	case Object:
		m := make(map[string]any, len(v))
		for _, e := range v {
			switch value := e.Value.(type) {
			case absent:
				if value.zero != nil {
					m[e.Name] = value.zero
				}
			default:
				m[e.Name] = plain(value)
			}
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = plain(e)
		}
		return l
	}
	return v
}

// PrintObject writes one object as the value tmpl of --format says: "json" or a Go template.
func PrintObject(w io.Writer, tmpl string, o Object) error {
	f, err := ParseObjectFormat(tmpl)
	if err != nil {
		return err
	}
	return f.Print(w, o)
}

// ObjectFormat is a value of the flag --format of a command that prints objects.
type ObjectFormat struct {
	t *template.Template // nil: as JSON
}

// ParseObjectFormat parses a value of --format: "json" or a Go template.
func ParseObjectFormat(s string) (ObjectFormat, error) {
	if s == "json" {
		return ObjectFormat{}, nil
	}
	t, err := parseTemplate(s)
	if err != nil {
		return ObjectFormat{}, err
	}
	return ObjectFormat{t.Option("missingkey=default")}, nil
}

// Print writes one object in one line. A template that names a field which o can never have is an
// invalid argument.
func (f ObjectFormat) Print(w io.Writer, o Object) error {
	if f.t == nil {
		return PrintJSON(w, o)
	}
	if err := checkFields(f.t, o); err != nil {
		return err
	}
	return execTemplate(w, f.t, plain(o))
}

// PrintObjects writes objects as `inspect` does: all in one array of JSON, which is indented unless
// tmpl is "json", or one line each if tmpl is a Go template.
func PrintObjects(w io.Writer, tmpl string, objects []Object) error {
	if tmpl != "" && tmpl != "json" {
		for _, o := range objects {
			if err := PrintObject(w, tmpl, o); err != nil {
				return err
			}
		}
		return nil
	}
	indent := "    "
	if tmpl == "json" {
		indent = ""
	}
	if objects == nil {
		objects = []Object{}
	}
	b, err := marshalJSON(objects, indent)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// Pairs returns m, or an empty map if it is nil, which JSON shows as {} and not as null.
func Pairs(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
	"text/template"

	"swarm/internal/printable"
)

// row is one object of a list as templates and JSON see it.
type row map[string]any

// column is one column of a table. It is an alias of an unnamed struct so that other packages may
// write a column as {"ID", "ID"}.
type column = struct{ field, header string }

// listing is how a list prints.
type listing struct {
	columns []column
	// more names fields that only templates and JSON show, with their headers.
	more []column
	// id is the field that --quiet prints; "ID" when empty.
	id string
}

// format is how a list or an object shall be printed.
type format struct {
	template string
	quiet    bool
}

// table reports whether it is the table for people, the default one.
func (f format) table() bool { return (f.template == "" || f.template == "table") && !f.quiet }

const formatHelp = `Format output using a custom template: 'table': Print output in table format with column headers (default), ` +
	`'table TEMPLATE': Print output in table format using the given Go template, 'json': Print in JSON format, ` +
	`'TEMPLATE': Print output using the given Go template`

// oneLine is the row with its texts as they may stand in a line of a list.
func (r row) oneLine() row {
	out := make(row, len(r))
	for field, v := range r {
		if s, ok := v.(string); ok {
			v = printable.Line(s)
		}
		out[field] = v
	}
	return out
}

// list prints rows as f asks for. In JSON, rows that may be old say so in the field Stale.
func (a *app) list(l listing, f format, rows []row) error {
	if a.stale != "" && f.template == "json" {
		for _, r := range rows {
			r["Stale"] = a.stale
		}
	}
	return l.print(a.Out, f, rows)
}

// print writes the rows as f asks for.
func (l listing) print(w io.Writer, f format, rows []row) error {
	id := l.id
	if id == "" {
		id = "ID"
	}
	tmpl, isTable := strings.CutPrefix(f.template, "table")
	switch {
	case f.quiet && (f.template == "" || f.template == "table"):
		for _, r := range rows {
			printf(w, "%v\n", r[id])
		}
		return nil
	case f.template == "json":
		for _, r := range rows {
			if err := printJSON(w, r); err != nil {
				return err
			}
		}
		return nil
	case f.template == "" || f.template == "table":
		return l.printTable(w, l.defaultTemplate(), rows)
	case isTable:
		return l.printTable(w, strings.TrimSpace(tmpl), rows)
	}
	t, err := parseTemplate(f.template)
	if err != nil {
		return err
	}
	if len(rows) == 0 { // A field that does not exist is an error with nothing in the list too.
		if err := execTemplate(io.Discard, t, l.header()); err != nil && strings.Contains(err.Error(), noField) {
			return err
		}
		return nil
	}
	for _, r := range rows {
		if err := execTemplate(w, t, r.oneLine()); err != nil {
			return err
		}
	}
	return nil
}

// header is the names of all fields, as rows have their values.
func (l listing) header() row {
	out := row{}
	for _, c := range append(append([]column{}, l.columns...), l.more...) {
		out[c.field] = c.header
	}
	return out
}

func (l listing) defaultTemplate() string {
	cells := make([]string, 0, len(l.columns))
	for _, c := range l.columns {
		cells = append(cells, "{{."+c.field+"}}")
	}
	return strings.Join(cells, "\t")
}

func (l listing) printTable(w io.Writer, tmpl string, rows []row) error {
	t, err := parseTemplate(tmpl)
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	for _, r := range append([]row{l.header()}, rows...) {
		if err := execTemplate(tw, t, r.oneLine()); err != nil {
			return err
		}
	}
	return tw.Flush()
}

func printJSON(w io.Writer, v any) error {
	b, err := marshalJSON(v, "")
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// marshalJSON is encoding/json without its escaping for web pages.
func marshalJSON(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func parseTemplate(s string) (*template.Template, error) {
	s = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(s)
	t, err := template.New("").Option("missingkey=error").Funcs(templateFuncs()).Parse(s)
	if err != nil {
		return nil, invalid("format %q is not a Go template: %s", s, templateReason(err))
	}
	return t, nil
}

func templateFuncs() template.FuncMap {
	return template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := marshalJSON(v, "")
			return string(b), err
		},
		"split": strings.Split,
		"join": func(v any, sep string) string {
			switch list := v.(type) {
			case []string:
				return strings.Join(list, sep)
			case []any:
				words := make([]string, len(list))
				for i, e := range list {
					words[i] = fmt.Sprint(e)
				}
				return strings.Join(words, sep)
			}
			return fmt.Sprint(v)
		},
		"title": func(s string) string {
			if s == "" {
				return s
			}
			return strings.ToUpper(s[:1]) + s[1:]
		},
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"pad": func(s string, before, after int) string {
			if s == "" {
				return s
			}
			return strings.Repeat(" ", max(before, 0)) + s + strings.Repeat(" ", max(after, 0))
		},
		"truncate": func(s string, n int) string {
			if len(s) <= n {
				return s
			}
			return s[:max(n, 0)]
		},
	}
}

// execTemplate writes one line.
func execTemplate(w io.Writer, t *template.Template, data any) error {
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		if m := noEntry.FindStringSubmatch(err.Error()); m != nil {
			return invalid("format: "+noField+" .%s: see the fields with --format json", m[1])
		}
		return invalid("format: %s; see the fields with --format json", templateReason(err))
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

const noField = "there is no field"

// noEntry is how text/template says that a row has no such field.
var noEntry = regexp.MustCompile(`map has no entry for key "([^"]*)"`)

// coordinates are where in a template without a name text/template found a mistake.
var coordinates = regexp.MustCompile(`^template: (:\d+)+: `)

// templateReason drops text/template's coordinates.
func templateReason(err error) string {
	s := err.Error()
	if i := strings.Index(s, "at <"); i >= 0 {
		return s[i+len("at "):]
	}
	return coordinates.ReplaceAllString(s, "")
}

package term

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
	"text/template"

	"swarm/cli/usage"
	"swarm/internal/printable"
)

// Row is one object of a list, by the names of its fields. Templates and JSON show these names.
type Row map[string]any

// Column is one column of a table. It is an alias of an unnamed struct so that other packages may
// write a column as {"ID", "ID"}.
type Column = struct{ Field, Header string }

// Table describes the columns of a list.
type Table struct {
	Columns []Column
	// More names fields that only templates and JSON show, with their headers.
	More []Column
	// Id is the field that --quiet prints; "ID" when empty.
	Id string
}

// Format is the form in which a list is printed. The flags --format and --quiet choose it.
type Format struct {
	Template string
	Quiet    bool
}

// IsTable reports whether the list is printed as the default table, which shortens texts for
// people.
func (f Format) IsTable() bool { return (f.Template == "" || f.Template == "table") && !f.Quiet }

// FormatHelp is the help of the flag --format of a list.
const FormatHelp = `Format output using a custom template: 'table': Print output in table format with column headers (default), ` +
	`'table TEMPLATE': Print output in table format using the given Go template, 'json': Print in JSON format, ` +
	`'TEMPLATE': Print output using the given Go template`

// oneLine returns the row with its texts escaped so that each stays on its line.
func (r Row) oneLine() Row {
	out := make(Row, len(r))
	for field, v := range r {
		if s, ok := v.(string); ok {
			v = printable.Line(s)
		}
		out[field] = v
	}
	return out
}

// Print writes the rows in format f. A template that names a field which the table does not have is
// an invalid argument, even if there are no rows.
func (l Table) Print(w io.Writer, f Format, rows []Row) error {
	id := l.Id
	if id == "" {
		id = "ID"
	}
	tmpl, isTable := strings.CutPrefix(f.Template, "table")
	switch {
	case f.Quiet && (f.Template == "" || f.Template == "table"):
		for _, r := range rows {
			Printf(w, "%v\n", r[id])
		}
		return nil
	case f.Template == "json":
		for _, r := range rows {
			if err := PrintJSON(w, r); err != nil {
				return err
			}
		}
		return nil
	case f.Template == "" || f.Template == "table":
		return l.printColumns(w, rows)
	case isTable:
		return l.printTable(w, strings.TrimSpace(tmpl), rows)
	}
	t, err := parseTemplate(f.Template)
	if err != nil {
		return err
	}
	if len(rows) == 0 { // An unknown field is an error even if the list is empty.
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

// header returns a row with the header of each field, including the fields of More.
func (l Table) header() Row {
	out := Row{}
	for _, c := range append(append([]Column{}, l.Columns...), l.More...) {
		out[c.Field] = c.Header
	}
	return out
}

// printColumns writes the columns of the table. It uses no template, which would take more time
// than the daemon needs to answer.
func (l Table) printColumns(w io.Writer, rows []Row) error {
	var b bytes.Buffer
	tw := newTabWriter(&b)
	for _, r := range append([]Row{l.header()}, rows...) {
		for i, c := range l.Columns {
			if i > 0 {
				_, _ = io.WriteString(tw, "\t")
			}
			_, _ = io.WriteString(tw, printable.Line(fmt.Sprint(r[c.Field])))
		}
		_, _ = io.WriteString(tw, "\n")
	}
	_ = tw.Flush()
	_, err := w.Write(b.Bytes())
	return err
}

func newTabWriter(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 10, 1, 3, ' ', 0) }

func (l Table) printTable(w io.Writer, tmpl string, rows []Row) error {
	t, err := parseTemplate(tmpl)
	if err != nil {
		return err
	}
	tw := newTabWriter(w)
	for _, r := range append([]Row{l.header()}, rows...) {
		if err := execTemplate(tw, t, r.oneLine()); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// PrintJSON writes v as one line of JSON.
func PrintJSON(w io.Writer, v any) error {
	b, err := marshalJSON(v, "")
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// marshalJSON encodes v without the escaping that encoding/json does for web pages.
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
		return nil, usage.Invalidf("format %q is not a Go template: %s", s, templateReason(err))
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

// execTemplate writes the output of template t for data as one line.
func execTemplate(w io.Writer, t *template.Template, data any) error {
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		if m := noEntry.FindStringSubmatch(err.Error()); m != nil {
			return usage.Invalidf("format: "+noField+" .%s: see the fields with --format json", m[1])
		}
		return usage.Invalidf("format: %s; see the fields with --format json", templateReason(err))
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

const noField = "there is no field"

// noEntry matches the error of text/template for a row that does not have a field.
var noEntry = regexp.MustCompile(`map has no entry for key "([^"]*)"`)

// coordinates matches the position in an error of text/template. The template has no name.
var coordinates = regexp.MustCompile(`^template: (:\d+)+: `)

// templateReason returns the reason of an error of text/template, without the position.
func templateReason(err error) string {
	s := err.Error()
	if i := strings.Index(s, "at <"); i >= 0 {
		return s[i+len("at "):]
	}
	return coordinates.ReplaceAllString(s, "")
}

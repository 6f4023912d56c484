// Command gen writes tables_gen.go of package table. It reads the fields of View in view.go, which
// are the schema, and the descriptor of swarmv1.Object. It fails if they do not match: a kind of
// row without a table, a table without a kind, or a tag that names a field which does not exist.
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"log"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"google.golang.org/protobuf/reflect/protoreflect"

	swarmv1 "swarm/proto/swarm/v1"
)

func main() {
	log.SetFlags(0)
	text, err := generate("view.go")
	if err == nil {
		err = os.WriteFile("tables_gen.go", text, 0o644)
	}
	if err != nil {
		log.Fatal("generate tables: ", err)
	}
}

// entry is one table.
type entry struct {
	Rows    string // field of View: "ImageCopies"
	Kind    string // message: "ImageCopy"
	Title   string // in messages to users: "image copy"
	Number  int    // field number in swarmv1.Object
	Key     []part // fields that form the key
	Name    string // expression of the unique name of row r; "" if there is none
	Fold    bool   // names ignore case
	Indexes string // function that returns the indexes; "" if there are none
}

// part is one field of a composite key.
type part struct{ Param, Type, Verb, Get string }

// Composite reports whether the key has more than one field.
func (e entry) Composite() bool { return len(e.Key) > 1 }

// generate returns the text of tables_gen.go for the View in the given file.
func generate(file string) ([]byte, error) {
	fields, err := viewFields(file)
	if err != nil {
		return nil, err
	}
	kinds := (&swarmv1.Object{}).ProtoReflect().Descriptor().Fields()
	var entries []entry
	limit := 0
	for i := range kinds.Len() {
		kind := kinds.Get(i)
		name := string(kind.Message().Name())
		field, ok := fields[name]
		if !ok {
			return nil, fmt.Errorf("%s: View has no field for %s: add Rows[*swarmv1.%s]", file, kind.FullName(), name)
		}
		delete(fields, name)
		e := entry{Rows: field.rows, Kind: name, Number: int(kind.Number()), Title: strings.ReplaceAll(string(kind.Name()), "_", " ")}
		if err := e.parse(field.tag, kind.Message()); err != nil {
			return nil, fmt.Errorf("%s: View.%s: %w", file, field.rows, err)
		}
		entries = append(entries, e)
		limit = max(limit, e.Number)
	}
	for name, field := range fields {
		return nil, fmt.Errorf("%s: View.%s: swarmv1.Object has no %s", file, field.rows, name)
	}
	slices.SortFunc(entries, func(a, b entry) int { return a.Number - b.Number })
	var out bytes.Buffer
	if err := output.Execute(&out, map[string]any{"Entries": entries, "Limit": limit + 1}); err != nil {
		return nil, err
	}
	return format.Source(out.Bytes())
}

type viewField struct{ rows, tag string }

// viewFields returns the fields of View that have a table tag, by the name of their message.
func viewFields(file string) (map[string]viewField, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	out := map[string]viewField{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != "View" {
			return true
		}
		for _, f := range spec.Type.(*ast.StructType).Fields.List {
			if f.Tag == nil {
				continue
			}
			tag, _ := strconv.Unquote(f.Tag.Value)
			// Rows[*swarmv1.Kind]
			kind := f.Type.(*ast.IndexExpr).Index.(*ast.StarExpr).X.(*ast.SelectorExpr).Sel.Name
			out[kind] = viewField{f.Names[0].Name, reflect.StructTag(tag).Get("table")}
		}
		return false
	})
	return out, nil
}

// parse reads a tag: key=FIELD, key=FIELD+FIELD, name=PATH, fold, indexes=FUNC.
func (e *entry) parse(tag string, message protoreflect.MessageDescriptor) error {
	for option := range strings.SplitSeq(tag, ",") {
		word, value, _ := strings.Cut(option, "=")
		switch word {
		case "key":
			for name := range strings.SplitSeq(value, "+") {
				field := message.Fields().ByName(protoreflect.Name(name))
				if field == nil {
					return fmt.Errorf("%s has no field %s", e.Kind, name)
				}
				p := part{Param: param(name), Type: "string", Verb: "%s", Get: "r.Get" + camel(name) + "()"}
				switch field.Kind() {
				case protoreflect.StringKind:
				case protoreflect.Uint64Kind:
					p.Type, p.Verb = "uint64", "%010d" // padded, so that keys sort by number
				default:
					return fmt.Errorf("field %s cannot be part of a key: it is a %s", name, field.Kind())
				}
				e.Key = append(e.Key, p)
			}
		case "name":
			get, at := "r", message
			for name := range strings.SplitSeq(value, ".") {
				field := at.Fields().ByName(protoreflect.Name(name))
				if field == nil {
					return fmt.Errorf("%s has no field %s", at.Name(), name)
				}
				get, at = get+".Get"+camel(name)+"()", field.Message()
			}
			e.Name = get
		case "fold":
			e.Fold = true
		case "indexes":
			e.Indexes = value
		default:
			return fmt.Errorf("unknown option %q", option)
		}
	}
	if len(e.Key) == 0 || len(e.Key) == 1 && e.Key[0].Type != "string" {
		return fmt.Errorf("the tag needs key=FIELD, where FIELD is a string")
	}
	return nil
}

// camel returns the Go name of a proto field: node_id is NodeId.
func camel(name string) string {
	var out strings.Builder
	for word := range strings.SplitSeq(name, "_") {
		out.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return out.String()
}

// param returns the name of a parameter: node_id is nodeID.
func param(name string) string {
	c := camel(name)
	if c = strings.ToLower(c[:1]) + c[1:]; strings.HasSuffix(c, "Id") {
		c = strings.TrimSuffix(c, "Id") + "ID"
	}
	return c
}

var output = template.Must(template.New("tables").Funcs(template.FuncMap{"camel": camel, "field": func(title string) string {
	return camel(strings.ReplaceAll(title, " ", "_"))
}}).Parse(`// Code generated by ./gen from view.go and swarmv1.Object. DO NOT EDIT.

package table

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

// The table ids.
const (
{{- range .Entries}}
	{{.Kind}} ID = {{.Number}}
{{- end}}

	idLimit = {{.Limit}} // highest id + 1
)

var titles = [idLimit]string{
{{- range .Entries}}
	{{.Kind}}: "{{.Title}}",
{{- end}}
}
{{range .Entries}}{{if .Composite}}
// {{.Kind}}Key returns the key of the {{.Title}} with the given fields.
func {{.Kind}}Key({{range $i, $p := .Key}}{{if $i}}, {{end}}{{.Param}} {{.Type}}{{end}}) string {
	return fmt.Sprintf("{{range $i, $p := .Key}}{{if $i}}/{{end}}{{.Verb}}{{end}}"{{range .Key}}, {{.Param}}{{end}})
}
{{end}}{{end}}
// Key returns the key under which obj is stored, or "" if obj is not a row.
func Key(obj proto.Message) string {
	switch r := obj.(type) {
{{- range .Entries}}
	case *swarmv1.{{.Kind}}:
		return {{if .Composite}}{{.Kind}}Key({{range $i, $p := .Key}}{{if $i}}, {{end}}{{.Get}}{{end}}){{else}}{{(index .Key 0).Get}}{{end}}
{{- end}}
	}
	return ""
}

// unwrap returns the table and the row of an Object, or nil if this build does not know its kind.
func unwrap(o *swarmv1.Object) (ID, Row) {
	switch k := o.GetObject().(type) {
{{- range .Entries}}
	case *swarmv1.Object_{{field .Title}}:
		return {{.Kind}}, k.{{field .Title}}
{{- end}}
	}
	return 0, nil
}

// wrap returns the table of a row and an Object that contains it, or nil if obj is not a row.
func wrap(obj proto.Message) (ID, *swarmv1.Object) {
	switch r := obj.(type) {
{{- range .Entries}}
	case *swarmv1.{{.Kind}}:
		return {{.Kind}}, &swarmv1.Object{Object: &swarmv1.Object_{{field .Title}}{ {{field .Title}}: r}}
{{- end}}
	}
	return 0, nil
}

// tables are the tables that Apply writes.
type tables struct {
{{- range .Entries}}
	{{.Rows}} *trees[*swarmv1.{{.Kind}}]
{{- end}}

	byID [idLimit]anyTrees // the tables above; byID[0] is nil
}

func newTables() *tables {
	t := &tables{
{{- range .Entries}}
		{{.Rows}}: newTrees(schema[*swarmv1.{{.Kind}}]{
			id: {{.Kind}},
			key: func(r *swarmv1.{{.Kind}}) string { return {{if .Composite}}{{.Kind}}Key({{range $i, $p := .Key}}{{if $i}}, {{end}}{{.Get}}{{end}}){{else}}{{(index .Key 0).Get}}{{end}} },
			setMeta: func(r *swarmv1.{{.Kind}}, m *swarmv1.Meta) { r.Meta = m },
{{- if .Name}}
			name: func(r *swarmv1.{{.Kind}}) string { return {{.Name}} },
			fold: {{if .Fold}}ident.Fold{{else}}func(name string) string { return name }{{end}},
{{- end}}
		}{{if .Indexes}}, {{.Indexes}}()...{{end}}),
{{- end}}
	}
	t.byID = [idLimit]anyTrees{
{{- range .Entries}}
		{{.Kind}}: t.{{.Rows}},
{{- end}}
	}
	return t
}

// freeze sets the tables of v to copies of the tables.
func (t *tables) freeze(v *View) {
{{- range .Entries}}
	v.{{.Rows}} = Rows[*swarmv1.{{.Kind}}]{t.{{.Rows}}.freeze()}
{{- end}}
}

// rows yields every row, ordered by table and key.
func (v *View) rows(yield func(Row) bool) {
	_ = {{range $i, $e := .Entries}}{{if $i}} &&
		{{end}}each(v.{{.Rows}}, yield){{end}}
}
`))

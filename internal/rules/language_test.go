package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// column is the width of comments and documents. Lines of this width fit two files side by side on
// a laptop, and a diff with both versions.
const column = 100

func TestCommentsFitTheColumn(t *testing.T) {
	for _, f := range tracked(t, "*.go") {
		if generated(f) {
			continue
		}
		for n, line := range lines(t, f) {
			text := strings.TrimLeft(line, "\t")
			// Preformatted lines, such as those of a table, cannot be wrapped.
			if strings.HasPrefix(text, "// ") && width(line) > column {
				t.Errorf("%s:%d: comment of %d columns: wrap it at %d, a tab counts 4", f, n+1, width(line), column)
			}
		}
	}
}

// width counts a tab as four columns.
func width(line string) int { return utf8.RuneCountInString(line) + 3*strings.Count(line, "\t") }

func lines(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}

// plainer has phrases that readers had to read twice, and what to write instead. Each was found by
// somebody who read this tree for the first time.
var plainer = []struct{ phrase, instead string }{
	{`all the same`, "still, or even so"},
	{`as if nothing`, "say what state remains"},
	{`at hand`, "say where it is"},
	{`come to rest`, "say that it no longer changes"},
	{`gets? along`, "say what it can do without"},
	{`hears? of`, "say who sends it what"},
	{`hearsay`, "gossip status"},
	{`in force`, "programmed, or applied"},
	{`is no news`, "say that nothing has changed"},
	{`is said once`, "name the shared function"},
	{`of theirs`, "name whose they are"},
	{`of yesterday`, "stale"},
	{`tells? of`, "reports, or say who sends what"},
	{`told of`, "reported, or say who sends what"},
	{`wants? a home`, "should move to a package of its own"},
}

func TestCommentsAreInPlainWords(t *testing.T) {
	for _, p := range plainer {
		pattern := regexp.MustCompile(`(?i)\b` + p.phrase + `\b`)
		for _, f := range tracked(t, "*.go", "*.md", "*.proto") {
			if generated(f) || f == "internal/rules/language_test.go" {
				continue
			}
			for n, line := range lines(t, f) {
				if found := pattern.FindString(line); found != "" {
					t.Errorf("%s:%d: %q: %s", f, n+1, found, p.instead)
				}
			}
		}
	}
}

// Whoever calls an exported identifier reads its comment and not its code. A comment that begins
// with the name is found by the name, and is a whole sentence.
func TestExportedIdentifiersAreDocumented(t *testing.T) {
	for _, f := range tracked(t, "*.go") {
		// Packages for tests implement interfaces that are documented where they are declared.
		if generated(f) || strings.HasSuffix(f, "_test.go") || strings.HasSuffix(filepath.Dir(f), "test") {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, filepath.Join(root, f), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			for name, doc := range exported(decl) {
				if !strings.HasPrefix(doc, name+" ") && !strings.HasPrefix(doc, name+",") && !strings.HasPrefix(doc, name+"'s ") && !strings.HasPrefix(doc, name+":") {
					t.Errorf("%s:%d: %s: its comment begins with %q: begin with the name", f, fset.Position(decl.Pos()).Line, name, firstWords(doc))
				}
			}
		}
	}
}

// wellKnown are methods whose interface everybody knows.
const wellKnown = " String Error Unwrap Is Close Read Write Len Less Swap Set Type MarshalJSON UnmarshalJSON ServeHTTP Network Addr LocalAddr RemoteAddr SetDeadline SetReadDeadline SetWriteDeadline Enabled Handle WithAttrs WithGroup Push Pop Describe Collect "

// exported yields the exported functions, methods and types of a declaration, with their comments.
// A variable or constant is documented by its own comment, or by that of its group.
func exported(decl ast.Decl) map[string]string {
	out := map[string]string{}
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && (d.Recv == nil || ast.IsExported(receiver(d)) && !strings.Contains(wellKnown, " "+d.Name.Name+" ")) {
			out[d.Name.Name] = d.Doc.Text()
		}
	case *ast.GenDecl:
		before := "" // the comments of the group so far: one may be about several names
		for _, spec := range d.Specs {
			if s, ok := spec.(*ast.ValueSpec); ok {
				before += s.Doc.Text()
			}
			if s, ok := spec.(*ast.TypeSpec); ok && s.Name.IsExported() {
				doc := s.Doc.Text()
				if doc == "" {
					doc = d.Doc.Text()
				}
				out[s.Name.Name] = doc
			}
			if s, ok := spec.(*ast.ValueSpec); ok && s.Names[0].IsExported() {
				name := s.Names[0].Name
				switch {
				case s.Doc.Text() != "" && len(d.Specs) == 1:
					out[name] = s.Doc.Text()
				case s.Doc.Text() == "" && s.Comment.Text() == "" && d.Doc.Text() == "" && !strings.Contains(before, name+" "):
					out[name] = ""
				case len(d.Specs) == 1 && s.Comment.Text() == "":
					out[name] = d.Doc.Text()
				}
			}
		}
	}
	return out
}

func receiver(d *ast.FuncDecl) string {
	expr := d.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.Name
		default:
			return ""
		}
	}
}

func firstWords(doc string) string {
	words := strings.Fields(doc)
	return strings.Join(words[:min(4, len(words))], " ")
}

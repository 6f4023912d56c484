package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Traces lead a newcomer through the code: each step has a file in its title, and names functions
// as `Name()` or `Type.Name()`. A step may name further files, by their path or by their name in
// the folder of the step's file. All of these files must exist, and each function must be in one of
// the files of its step, or the first thing that a newcomer reads is wrong.
func TestTracesNameWhatExists(t *testing.T) {
	checkTrace(t, "docs/trace.md", 7)
	checkTrace(t, "docs/trace-port.md", 15)
}

var (
	traceStep     = regexp.MustCompile("(?m)^## \\d+ · `([^`]+\\.go)`")
	traceFile     = regexp.MustCompile("`([\\w./-]+\\.go)`")
	traceFunction = regexp.MustCompile("`((?:\\w+\\.)?\\w+)\\(\\)`")
)

func checkTrace(t *testing.T, doc string, want int) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, doc))
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	steps := traceStep.FindAllStringSubmatchIndex(text, -1)
	if len(steps) != want {
		t.Fatalf("%s has %d steps, want %d", doc, len(steps), want)
	}
	for i, step := range steps {
		end := len(text)
		if i+1 < len(steps) {
			end = steps[i+1][0]
		}
		title, body := text[step[2]:step[3]], text[step[1]:end]
		declared := functions(t, filepath.Join(root, title))
		for _, m := range traceFile.FindAllStringSubmatch(body, -1) {
			file := m[1]
			if !strings.Contains(file, "/") {
				file = path.Join(path.Dir(title), file)
			}
			maps.Copy(declared, functions(t, filepath.Join(root, file)))
		}
		named := traceFunction.FindAllStringSubmatch(body, -1)
		if len(named) == 0 {
			t.Errorf("%s: step %s names no function", doc, title)
		}
		for _, m := range named {
			if !declared[m[1]] {
				t.Errorf("%s: step %s: no file of this step has the function %s", doc, title, m[1])
			}
		}
	}
}

// functions of a file: "Name" or "Type.Name".
func functions(t *testing.T, file string) map[string]bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, decl := range parsed.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		name := fn.Name.Name
		if fn.Recv != nil {
			typ := fn.Recv.List[0].Type
			if star, ok := typ.(*ast.StarExpr); ok {
				typ = star.X
			}
			if ident, ok := typ.(*ast.Ident); ok {
				name = ident.Name + "." + name
			}
		}
		names[name] = true
	}
	return names
}

package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// docs/trace.md leads a newcomer through the code by file and function, as `file.go` `Name` or `Type.Name`. What it
// names must exist, or the first thing a newcomer reads is wrong.
func TestTraceNamesWhatExists(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/trace.md"))
	if err != nil {
		t.Fatal(err)
	}
	steps := regexp.MustCompile("(?m)^## \\d+ · `([^`]+\\.go)`").FindAllStringSubmatchIndex(string(text), -1)
	if len(steps) != 7 {
		t.Fatalf("docs/trace.md has %d steps, want 7", len(steps))
	}
	for i, step := range steps {
		end := len(text)
		if i+1 < len(steps) {
			end = steps[i+1][0]
		}
		file := string(text[step[2]:step[3]])
		declared := functions(t, filepath.Join(root, file))
		named := regexp.MustCompile("`((?:\\w+\\.)?\\w+)\\(\\)`").FindAllSubmatch(text[step[1]:end], -1)
		if len(named) == 0 {
			t.Errorf("docs/trace.md: step %s names no function", file)
		}
		for _, n := range named {
			if !declared[string(n[1])] {
				t.Errorf("docs/trace.md: %s has no %s; it has %v", file, n[1], declared)
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

package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// State of a package is shared by all that use it, two daemons of one test included, and nobody
// owns it. A package-level variable is a constant that Go cannot write as one: it has a value from
// the start (or one that is embedded), which no function replaces, and is no lock, counter, pool or
// channel.
func TestNoMutablePackageState(t *testing.T) {
	dirs := map[string][]*ast.File{}
	fset := token.NewFileSet()
	for _, f := range tracked(t, "*.go") {
		if generated(f) || strings.HasSuffix(f, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, filepath.Join(root, f), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		// A folder's files for other systems may declare the same names: together they are refused
		// what one is.
		dirs[filepath.Dir(f)] = append(dirs[filepath.Dir(f)], file)
	}
	for _, files := range dirs {
		written, embedded := map[string]token.Pos{}, map[string]bool{}
		for _, file := range files {
			writes(file, written)
			embeds(file, embedded)
		}
		for _, file := range files {
			for _, decl := range file.Decls {
				if gen, ok := decl.(*ast.GenDecl); ok && gen.Tok == token.VAR {
					for _, spec := range gen.Specs {
						judgeVar(t, fset, spec.(*ast.ValueSpec), written, embedded)
					}
				}
			}
		}
	}
}

func judgeVar(t *testing.T, fset *token.FileSet, spec *ast.ValueSpec, written map[string]token.Pos, embedded map[string]bool) {
	for i, name := range spec.Names {
		why := ""
		switch pos, ok := written[name.Name]; {
		case name.Name == "_" || embedded[name.Name]:
		case ok:
			why = "it is changed at " + fset.Position(pos).String()
		case stateful(spec.Type):
			why = "its type is made to be changed"
		case len(spec.Values) == 0:
			why = "it has no value from the start"
		case i < len(spec.Values) && statefulValue(spec.Values[i]):
			why = "its value is made to be changed"
		}
		if why != "" {
			t.Errorf("%s: package-level variable %s: %s: put it in a struct that somebody makes and owns", fset.Position(name.Pos()), name.Name, why)
		}
	}
}

// embeds collects the names that hold an embedded file. In a build without the file the same name
// is empty.
func embeds(file *ast.File, names map[string]bool) {
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR {
			continue
		}
		for _, spec := range gen.Specs {
			v := spec.(*ast.ValueSpec)
			if embedding(gen.Doc) || embedding(v.Doc) {
				for _, name := range v.Names {
					names[name.Name] = true
				}
			}
		}
	}
}

func embedding(group *ast.CommentGroup) bool {
	return group != nil && slices.ContainsFunc(group.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

// stateful tells types whose values exist to change.
func stateful(typ ast.Expr) bool {
	switch typ := typ.(type) {
	case *ast.ChanType:
		return true
	case *ast.StarExpr:
		return stateful(typ.X)
	case *ast.IndexExpr: // atomic.Pointer[T]
		return stateful(typ.X)
	case *ast.SelectorExpr:
		pkg, ok := typ.X.(*ast.Ident)
		return ok && (pkg.Name == "sync" || pkg.Name == "atomic")
	}
	return false
}

func statefulValue(value ast.Expr) bool {
	switch value := value.(type) {
	case *ast.UnaryExpr:
		return value.Op == token.AND && statefulValue(value.X)
	case *ast.CompositeLit:
		return stateful(value.Type)
	case *ast.CallExpr:
		if fn, ok := value.Fun.(*ast.Ident); ok && (fn.Name == "make" || fn.Name == "new") && len(value.Args) > 0 {
			return fn.Name == "make" || stateful(value.Args[0])
		}
	}
	return false
}

// writes collects the package-level names that a file's functions assign to, or into.
func writes(file *ast.File, written map[string]token.Pos) {
	note := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
				continue
			case *ast.SelectorExpr:
				e = x.X
				continue
			case *ast.ParenExpr:
				e = x.X
				continue
			case *ast.Ident:
				// Objects are resolved within the file; a name of another file of the package has
				// none.
				if x.Obj == nil || file.Scope.Lookup(x.Name) == x.Obj {
					written[x.Name] = x.Pos()
				}
			}
			return
		}
	}
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		ast.Inspect(fn, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				if n.Tok != token.DEFINE {
					for _, e := range n.Lhs {
						note(e)
					}
				}
			case *ast.IncDecStmt:
				note(n.X)
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "delete" || f.Name == "clear") && len(n.Args) > 0 {
					note(n.Args[0])
				}
			}
			return true
		})
	}
}

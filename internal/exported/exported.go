// Package exported lists a package's exported identifiers, for tests that compare the list to a
// file. Such a test fails if an identifier is exported by accident, as by an embedded field.
package exported

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Test compares the exported identifiers of the package under test with testdata/exported.txt.
func Test(t *testing.T) {
	names, err := List(".")
	require.NoError(t, err)
	want, err := os.ReadFile("testdata/exported.txt")
	require.NoError(t, err)
	require.Equal(t, string(want), strings.Join(names, "\n")+"\n")
}

// List returns the exported constants, variables, functions, types, fields and methods of the
// package in a folder, sorted, one on each line. It lists every embedded field of an exported type,
// since the field's own methods and fields come with it.
func List(folder string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, decl := range parsed.Decls {
			names = append(names, ofDecl(decl)...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func ofDecl(decl ast.Decl) (names []string) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if !d.Name.IsExported() {
			return nil
		}
		if d.Recv == nil {
			return []string{"func " + d.Name.Name}
		}
		if receiver := typeName(d.Recv.List[0].Type); ast.IsExported(receiver) {
			return []string{fmt.Sprintf("method %s.%s", receiver, d.Name.Name)}
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.ValueSpec:
				for _, name := range s.Names {
					if name.IsExported() {
						names = append(names, d.Tok.String()+" "+name.Name)
					}
				}
			case *ast.TypeSpec:
				if s.Name.IsExported() {
					names = append(names, "type "+s.Name.Name)
					names = append(names, ofType(s.Name.Name, s.Type)...)
				}
			}
		}
	}
	return names
}

func ofType(name string, t ast.Expr) (names []string) {
	var fields *ast.FieldList
	kind := "field"
	switch t := t.(type) {
	case *ast.StructType:
		fields = t.Fields
	case *ast.InterfaceType:
		fields, kind = t.Methods, "method"
	default:
		return nil
	}
	for _, field := range fields.List {
		if len(field.Names) == 0 {
			names = append(names, fmt.Sprintf("embedded %s.%s", name, typeName(field.Type)))
		}
		for _, n := range field.Names {
			if n.IsExported() {
				names = append(names, fmt.Sprintf("%s %s.%s", kind, name, n.Name))
			}
		}
	}
	return names
}

// typeName returns the name of a type without its package, type parameters and star.
func typeName(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StarExpr:
		return typeName(t.X)
	case *ast.SelectorExpr:
		return t.Sel.Name
	case *ast.IndexExpr:
		return typeName(t.X)
	case *ast.IndexListExpr:
		return typeName(t.X)
	case *ast.Ident:
		return t.Name
	}
	return "?"
}

package exported_test

import (
	"fmt"
	"go/ast"
	"go/doc"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/exported"
	"piko.sh/pikokms/internal/race"
)

// TestDocumentation reads the documentation of the published packages as pkg.go.dev does. There, a
// link to a name that is gone is text in brackets, and an example of a name that is gone is left
// out, both without an error.
func TestDocumentation(t *testing.T) {
	race.SkipShort(t)
	packages := make(map[string][]string) // exported names by import path
	for _, folder := range published(t) {
		names, err := exported.List(folder)
		require.NoError(t, err)
		for _, name := range names {
			_, name, _ = strings.Cut(name, " ") // without its kind
			packages[importPath(folder)] = append(packages[importPath(folder)], name)
		}
	}
	isGone := func(link *comment.DocLink) bool {
		names, published := packages[link.ImportPath]
		name := strings.TrimPrefix(link.Recv+"."+link.Name, ".")
		return published && link.Name != "" && !slices.Contains(names, name)
	}
	for _, folder := range published(t) {
		p, examples := documentation(t, folder)
		if p == nil {
			continue
		}
		var shown []*doc.Example
		check := func(name, text string, of []*doc.Example) {
			for _, link := range brokenLinks(p.Parser().Parse(text).Content, isGone) {
				t.Errorf("%s: the documentation of %s has the link %s, which leads nowhere", folder, name, link)
			}
			shown = append(shown, of...)
		}
		checkFuncs := func(functions []*doc.Func) {
			for _, f := range functions {
				check(f.Name, f.Doc, f.Examples)
				if f.Doc == "" && f.Name != "Error" && f.Name != "Unwrap" {
					t.Errorf("%s: %s has no documentation", folder, f.Name)
				}
			}
		}
		check("the package", p.Doc, p.Examples)
		checkFuncs(p.Funcs)
		values := slices.Concat(p.Consts, p.Vars)
		for _, typ := range p.Types {
			check(typ.Name, typ.Doc, typ.Examples)
			checkFuncs(slices.Concat(typ.Funcs, typ.Methods))
			values = slices.Concat(values, typ.Consts, typ.Vars)
		}
		for _, v := range values {
			check(strings.Join(v.Names, ", "), v.Doc, nil)
		}
		for _, e := range examples {
			if !slices.ContainsFunc(shown, func(s *doc.Example) bool { return s.Code == e.Code }) {
				t.Errorf("%s: Example%s is of no exported name, so pkg.go.dev does not show it", folder, e.Name)
			}
		}
	}
}

// importPath returns the import path of the package in a folder. Those of the drop-ins are others,
// but no package links to them.
func importPath(folder string) string {
	return path.Join("piko.sh/pikokms", filepath.ToSlash(folder)[len("../.."):])
}

// documentation returns the documentation of the package in a folder, and the examples of its test
// files. Without Go files it is nil.
func documentation(t *testing.T, folder string) (*doc.Package, []*doc.Example) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.go"))
	require.NoError(t, err)
	if len(paths) == 0 {
		return nil, nil
	}
	set := token.NewFileSet()
	var files, tests []*ast.File
	for _, name := range paths {
		file, err := parser.ParseFile(set, name, nil, parser.ParseComments)
		require.NoError(t, err)
		files = append(files, file)
		if strings.HasSuffix(name, "_test.go") {
			tests = append(tests, file)
		}
	}
	p, err := doc.NewFromFiles(set, files, importPath(folder))
	require.NoError(t, err)
	return p, doc.Examples(tests...)
}

// bracketed matches what is written as a link and was not taken for one, but not the type of a key,
// as in map[string]any.
var bracketed = regexp.MustCompile(`(?:^|[^\w\]])(\[\*?[A-Za-z]\w*(?:\.[A-Za-z]\w*)*\])`)

// brokenLinks returns the links to what is gone, and the texts in brackets that are no links.
func brokenLinks(blocks []comment.Block, isGone func(*comment.DocLink) bool) (broken []string) {
	for _, block := range blocks {
		var texts []comment.Text
		switch b := block.(type) {
		case *comment.Paragraph:
			texts = b.Text
		case *comment.Heading:
			texts = b.Text
		case *comment.List:
			for _, item := range b.Items {
				broken = append(broken, brokenLinks(item.Content, isGone)...)
			}
		}
		for _, text := range texts {
			switch x := text.(type) {
			case comment.Plain:
				for _, match := range bracketed.FindAllStringSubmatch(string(x), -1) {
					broken = append(broken, match[1])
				}
			case *comment.DocLink:
				if isGone(x) {
					broken = append(broken, fmt.Sprintf("[%s]", strings.Trim(fmt.Sprint(x.Text), "[]")))
				}
			}
		}
	}
	return broken
}

func TestBrokenLinks(t *testing.T) {
	parser := &comment.Parser{
		LookupPackage: func(name string) (string, bool) { return name, name == "other" },
		LookupSym:     func(_, name string) bool { return name == "New" },
	}
	text := "[New] and [other.New] replace [Old], [other.Old] and [third.Old].\n\n  - a map[string]int, and [Gone]\n"
	got := brokenLinks(parser.Parse(text).Content, func(link *comment.DocLink) bool { return link.Name == "Old" })
	require.Equal(t, []string{"[Old]", "[other.Old]", "[third.Old]", "[Gone]"}, got)
}

// Command packagemap draws docs/packages.svg. The picture shows the packages that users import or
// run, and which of them imports which. With -check it checks that the picture is up to date.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const module = "piko.sh/pikokms"

func main() {
	check := flag.Bool("check", false, "compare the picture instead of drawing it")
	flag.Parse()
	if err := run(*check); err != nil {
		fmt.Fprintln(os.Stderr, "packagemap:", err)
		os.Exit(1)
	}
}

func run(check bool) error {
	out, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return fmt.Errorf("finding the checkout: %w", err)
	}
	root := strings.TrimSpace(string(out))
	packages, err := list(root)
	if err != nil {
		return err
	}
	drawn, path := draw(packages), filepath.Join(root, "docs", "packages.svg")
	if !check {
		return os.WriteFile(path, drawn, 0o644)
	}
	stored, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Equal(stored, drawn) {
		return errors.New("docs/packages.svg is not what the imports say; run go run ./internal/packagemap")
	}
	return nil
}

// pkg is a package with the packages that it imports.
type pkg struct {
	name    string // its path below the module's
	summary string
	imports []string // names
	level   int      // one more than the highest level of its imports
}

// list returns the packages of the workspace that are not internal. Each comes before those that
// import it.
func list(root string) ([]*pkg, error) {
	command := exec.Command("go", "list", "-json=ImportPath,Imports,Doc", "work")
	command.Dir = root
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	type listed struct {
		ImportPath, Doc string
		Imports         []string
	}
	all := make(map[string]listed)
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		all[p.ImportPath] = p
	}
	// Imports of an internal package count as imports of the package that imports it.
	var reach func(path string, found map[string]bool)
	reach = func(path string, found map[string]bool) {
		for _, imported := range all[path].Imports {
			switch {
			case all[imported].ImportPath == "":
			case isShown(imported):
				found[imported] = true
			default:
				reach(imported, found)
			}
		}
	}
	shown := make(map[string]*pkg)
	var add func(path string) *pkg
	add = func(path string) *pkg {
		if p := shown[path]; p != nil {
			return p
		}
		p := &pkg{name: nameOf(path), summary: summary(all[path].Doc)}
		shown[path] = p
		found := make(map[string]bool)
		reach(path, found)
		for imported := range found {
			below := add(imported)
			p.level = max(p.level, below.level+1)
			p.imports = append(p.imports, below.name)
		}
		slices.Sort(p.imports)
		return p
	}
	var packages []*pkg
	for path := range all {
		if isShown(path) {
			packages = append(packages, add(path))
		}
	}
	slices.SortFunc(packages, func(a, b *pkg) int {
		if a.level != b.level {
			return a.level - b.level
		}
		return strings.Compare(a.name, b.name)
	})
	return packages, nil
}

func isShown(path string) bool {
	below, ours := strings.CutPrefix(path+"/", module+"/")
	first, _, _ := strings.Cut(below, "/")
	return ours && !strings.Contains("/"+below, "/internal/") && first != "examples" && first != "lab"
}

func nameOf(path string) string {
	if path == module {
		return "pikokms"
	}
	return strings.TrimPrefix(path, module+"/")
}

// summary returns the first sentence of a package's documentation, without the package's name.
func summary(doc string) string {
	sentence, _, _ := strings.Cut(doc, ". ")
	words := strings.Fields(strings.TrimSuffix(sentence, "."))
	if len(words) > 2 && (words[0] == "Package" || words[0] == "Command") {
		words = words[2:]
	}
	return strings.Join(words, " ")
}

const (
	boxWidth, boxHeight = 178, 34
	gapX, gapY          = 22, 64
	margin              = 24
)

// draw returns the picture. Each level is a row, the lowest at the bottom. An arrow is an import
// that no other path of imports implies.
func draw(packages []*pkg) []byte {
	rows := make(map[int][]*pkg)
	byName := make(map[string]*pkg)
	top, widest := 0, 0
	for _, p := range packages {
		rows[p.level] = append(rows[p.level], p)
		byName[p.name] = p
		top, widest = max(top, p.level), max(widest, len(rows[p.level]))
	}
	width := 2*margin + widest*(boxWidth+gapX) - gapX
	height := 2*margin + (top+1)*(boxHeight+gapY) - gapY
	place := func(p *pkg) (x, y int) {
		row := rows[p.level]
		left := (width - (len(row)*(boxWidth+gapX) - gapX)) / 2
		return left + slices.Index(row, p)*(boxWidth+gapX), margin + (top-p.level)*(boxHeight+gapY)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", width, height)
	b.WriteString(`<title>Packages of pikokms: an arrow leads from a package to one that it imports</title>` + "\n")
	b.WriteString(`<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#667"/></marker></defs>` + "\n")
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	for _, p := range packages {
		x, y := place(p)
		for i, name := range direct(p, byName) {
			toX, toY := place(byName[name])
			fromX := x + boxWidth*(i+1)/(len(direct(p, byName))+1)
			fmt.Fprintf(&b, `<path d="M%d %dC%d %d %d %d %d %d" fill="none" stroke="#889" marker-end="url(#arrow)"/>`+"\n",
				fromX, y+boxHeight, fromX, y+boxHeight+gapY/2, toX+boxWidth/2, toY-gapY/2, toX+boxWidth/2, toY)
		}
	}
	for _, p := range packages {
		x, y := place(p)
		fmt.Fprintf(&b, `<g><title>%s</title><rect x="%d" y="%d" width="%d" height="%d" rx="6" fill="%s" stroke="#456"/><text x="%d" y="%d" text-anchor="middle" fill="#123">%s</text></g>`+"\n",
			escape(p.summary), x, y, boxWidth, boxHeight, fill(p.name), x+boxWidth/2, y+boxHeight/2+5, escape(p.name))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// direct returns the imports of p that no other import of p leads to.
func direct(p *pkg, byName map[string]*pkg) (names []string) {
	var reaches func(from, to string) bool
	reaches = func(from, to string) bool {
		return slices.ContainsFunc(byName[from].imports, func(next string) bool { return next == to || reaches(next, to) })
	}
	for _, name := range p.imports {
		if !slices.ContainsFunc(p.imports, func(other string) bool { return other != name && reaches(other, name) }) {
			names = append(names, name)
		}
	}
	return names
}

func fill(name string) string {
	switch {
	case strings.HasPrefix(name, "cmd/"):
		return "#fde8c8"
	case strings.HasSuffix(name, "storage"):
		return "#e3f1d9"
	case strings.HasPrefix(name, "provider"):
		return "#dde9f9"
	case name == "pikokms":
		return "#f9dede"
	}
	return "#f2f2f5"
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

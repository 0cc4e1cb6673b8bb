package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// maxModules is how many modules the repository may have. Each is one more version that users mix
// with the others, and one more tag of a release.
const maxModules = 14

func TestModulesAreFew(t *testing.T) {
	root, err := repository()
	require.NoError(t, err)
	modules, err := allModules(root)
	require.NoError(t, err)
	require.LessOrEqual(t, len(modules), maxModules, "%v", modules)
}

// Users mix versions of modules, and an internal package may change in any version. So no module
// that they get imports another one's. Tests may import those of ofTests.
func TestNoModuleImportsInternalsOfAnother(t *testing.T) {
	root, err := repository()
	require.NoError(t, err)
	list := exec.Command("go", "list", "-json=ImportPath,Module,Imports,TestImports,XTestImports", "work")
	list.Dir = root
	out, err := list.Output()
	require.NoError(t, err)
	type listed struct {
		ImportPath                         string
		Module                             struct{ Path string }
		Imports, TestImports, XTestImports []string
	}
	var packages []listed
	moduleOf := make(map[string]string)
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p listed
		require.NoError(t, d.Decode(&p))
		packages, moduleOf[p.ImportPath] = append(packages, p), p.Module.Path
	}
	for _, p := range packages {
		if p.Module.Path == rootModule+"/lab" { // users can't have it
			continue
		}
		isOthers := func(imported string) bool {
			isInternal := slices.Contains(strings.Split(imported, "/"), "internal")
			other := moduleOf[imported]
			return isInternal && other != p.Module.Path && strings.HasPrefix(other+"/", rootModule+"/")
		}
		for _, imported := range p.Imports {
			if isOthers(imported) {
				t.Errorf("%s imports %s of the module %s", p.ImportPath, imported, moduleOf[imported])
			}
		}
		for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
			if isOthers(imported) && !slices.Contains(ofTests, path.Base(imported)) {
				t.Errorf("tests of %s import %s of the module %s", p.ImportPath, imported, moduleOf[imported])
			}
		}
	}
}

// TestPublishedModulesBuildWithANewerRoot is a user with version 0.1.0 of every module, who takes
// version 0.1.1 of the root module alone. There, every internal package but those of tests has
// another path.
func TestPublishedModulesBuildWithANewerRoot(t *testing.T) {
	if testing.Short() {
		t.Skip("builds every module once more; skipped in short mode")
	}
	root, err := repository()
	require.NoError(t, err)
	modules, err := published(root)
	require.NoError(t, err)
	u := newUser(t, modules)
	older, newer := "v0.1.0"+u.suffix, "v0.1.1"+u.suffix
	require.NoError(t, writeProxy(u.proxy, modules, older))
	require.NoError(t, module{root, rootModule}.write(u.proxy, newer, renameInternals))

	dir := t.TempDir()
	u.do(t, dir, "mod", "init", "example.com/user")
	arguments := []string{"get", rootModule + "@" + newer}
	patterns := []string{"build"}
	program := "package main\n"
	for _, m := range modules {
		if m.path != rootModule {
			arguments = append(arguments, m.path+"@"+older)
		}
		patterns = append(patterns, m.path+"/...")
		if !strings.HasPrefix(m.name(), "cmd/") {
			program += fmt.Sprintf("\nimport _ %q\n", m.path)
		}
	}
	// Piko itself may not be in a module proxy.
	u.do(t, dir, "mod", "edit", "-replace", "piko.sh/piko="+filepath.Join(root, "internal", "pikocontract"))
	u.do(t, dir, arguments...)
	u.do(t, dir, patterns...)
	// It needs what the tests of these modules import.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(program+"\nfunc main() {}\n"), 0o644))
	u.do(t, dir, "mod", "tidy")
	u.do(t, dir, "build", "-ldflags=-w")
	t.Logf("%d modules build with another version of the root module", len(modules)-1)
}

// ofTests are the internal packages that only tests import, those of other modules too. They stay
// where they are, since go mod tidy looks for what the tests of a module import.
var ofTests = []string{"adversary", "emulator", "exported", "leftover", "model", "race", "soak"}

// renameInternals gives the internal packages of the root module in a folder other paths.
func renameInternals(tree string) error {
	internal := filepath.Join(tree, "internal")
	entries, err := os.ReadDir(internal)
	if err == nil {
		err = os.Mkdir(filepath.Join(internal, "renamed"), 0o755)
	}
	if err != nil {
		return err
	}
	var paths []string
	for _, entry := range entries {
		if slices.Contains(ofTests, entry.Name()) {
			continue
		}
		if err := os.Rename(filepath.Join(internal, entry.Name()), filepath.Join(internal, "renamed", entry.Name())); err != nil {
			return err
		}
		const below = `"` + rootModule + "/internal/"
		paths = append(paths, below+entry.Name(), below+"renamed/"+entry.Name())
	}
	renamed := strings.NewReplacer(paths...)
	return filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, []byte(renamed.Replace(string(text))), 0o644)
	})
}

package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

// rootModule is the path of the root module. The paths of all published modules begin with it.
const rootModule = "piko.sh/pikokms"

// module is a module of the checkout.
type module struct {
	dir  string // of its go.mod
	path string
}

// tag returns the name of the Git tag with which the go command finds a version of the module.
func (m module) tag(version string) string {
	return path.Join(m.name(), version)
}

// name returns the module's path below that of the root module.
func (m module) name() string {
	return strings.TrimPrefix(strings.TrimPrefix(m.path, rootModule), "/")
}

// isPublished reports whether users can get a module. Those are the root module and the modules
// below its path, except for internal and lab, which only this repository uses.
func (m module) isPublished() bool {
	below := strings.TrimPrefix(m.path, rootModule)
	switch first, _, _ := strings.Cut(strings.TrimPrefix(below, "/"), "/"); first {
	case "internal", "lab":
		return false
	}
	return below == "" || strings.HasPrefix(below, "/")
}

// published returns the published modules below root, in the order of their folders.
func published(root string) ([]module, error) {
	modules, err := allModules(root)
	return slices.DeleteFunc(modules, func(m module) bool { return !m.isPublished() }), err
}

// allModules returns the modules below root, in the order of their folders.
func allModules(root string) (modules []module, err error) {
	err = filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != root && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case entry.IsDir() && entry.Name() == "testdata":
			return fs.SkipDir
		case entry.Name() != "go.mod":
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		modules = append(modules, module{filepath.Dir(file), modfile.ModulePath(text)})
		return nil
	})
	return modules, err
}

// released returns the module's go.mod for a version: it requires the others at that version, and
// has no replace directive for them.
func (m module) released(version string) ([]byte, error) {
	file := filepath.Join(m.dir, "go.mod")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	parsed, err := modfile.Parse(file, text, nil)
	if err != nil {
		return nil, err
	}
	for _, required := range parsed.Require {
		if !strings.HasPrefix(required.Mod.Path+"/", rootModule+"/") {
			continue
		}
		if other := (module{path: required.Mod.Path}); !other.isPublished() {
			return nil, fmt.Errorf("%s requires %s, which users can't have", file, required.Mod.Path)
		}
		if err := parsed.AddRequire(required.Mod.Path, version); err != nil {
			return nil, err
		}
	}
	if len(parsed.Replace) > 0 {
		return nil, fmt.Errorf("%s replaces %s: a replacement holds for this checkout alone", file, parsed.Replace[0].Old.Path)
	}
	parsed.Cleanup()
	return parsed.Format()
}

func setVersions(modules []module, version string) error {
	for _, m := range modules {
		text, err := m.released(version)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(m.dir, "go.mod"), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
)

// newModule is the version that go mod tidy writes for a module without a known version.
const newModule = "v0.0.0-00010101000000-000000000000"

// tidy runs go mod tidy in every module below root, with the other modules from this checkout. By
// itself, go mod tidy ignores go.work and looks for them in a module proxy.
func tidy(root string) error {
	modules, err := allModules(root)
	if err != nil {
		return err
	}
	for _, m := range modules {
		if err := m.tidy(modules); err != nil {
			return fmt.Errorf("%s: %w", m.path, err)
		}
	}
	return nil
}

func (m module) tidy(others []module) error {
	text, err := os.ReadFile(filepath.Join(m.dir, "go.mod"))
	if err != nil {
		return err
	}
	original, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		return err
	}
	replaced, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		return err
	}
	for _, other := range others {
		if other.path == m.path {
			continue
		}
		if err := replaced.AddReplace(other.path, "", other.dir, ""); err != nil {
			return err
		}
	}
	if text, err = replaced.Format(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tidy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sums, _ := os.ReadFile(filepath.Join(m.dir, "go.sum")) // the file may be missing
	mod, sum := filepath.Join(dir, "go.mod"), filepath.Join(dir, "go.sum")
	if err := os.WriteFile(mod, text, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(sum, sums, 0o644); err != nil {
		return err
	}
	command := exec.Command("go", "mod", "tidy", "-modfile="+mod)
	command.Dir, command.Env = m.dir, append(os.Environ(), "GOWORK=off")
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go mod tidy: %w\n%s", err, strings.TrimSpace(string(out)))
	}
	return m.install(original, mod, sum)
}

// install writes the result of go mod tidy to the module, with the replace directives of its
// original go.mod.
func (m module) install(original *modfile.File, mod, sum string) error {
	text, err := os.ReadFile(mod)
	if err != nil {
		return err
	}
	tidied, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		return err
	}
	for _, r := range tidied.Replace {
		if err := tidied.DropReplace(r.Old.Path, r.Old.Version); err != nil {
			return err
		}
	}
	for _, r := range original.Replace {
		if err := tidied.AddReplace(r.Old.Path, r.Old.Version, r.New.Path, r.New.Version); err != nil {
			return err
		}
	}
	if err := withVersions(tidied); err != nil {
		return err
	}
	tidied.Cleanup()
	if text, err = tidied.Format(); err != nil {
		return err
	}
	sums, err := os.ReadFile(sum)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.dir, "go.mod"), text, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(m.dir, "go.sum"), sums, 0o644)
}

// withVersions sets the version of modules of this repository that are required for the first time
// to that of the root module. go mod tidy knows no version of them, since they come from the
// checkout.
func withVersions(tidied *modfile.File) error {
	version := ""
	for _, r := range tidied.Require {
		if r.Mod.Path == rootModule {
			version = r.Mod.Version
		}
	}
	for _, r := range tidied.Require {
		if version == "" || r.Mod.Version != newModule {
			continue
		}
		if err := tidied.AddRequire(r.Mod.Path, version); err != nil {
			return err
		}
	}
	return nil
}

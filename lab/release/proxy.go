package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	xmodule "golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// writeProxy writes a module proxy with one version of the modules to dir. It has the layout that
// the go command reads from a file:// URL (Go Modules Reference, "GOPROXY protocol").
func writeProxy(dir string, modules []module, version string) error {
	for _, m := range modules {
		if err := m.write(dir, version); err != nil {
			return err
		}
	}
	return nil
}

// write adds a version of the module to a proxy, with the given changes of its files.
func (m module) write(dir, version string, changes ...func(tree string) error) error {
	escaped, err := xmodule.EscapePath(m.path)
	if err != nil {
		return err
	}
	at := filepath.Join(dir, filepath.FromSlash(escaped), "@v")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	mod, err := m.released(version)
	if err != nil {
		return err
	}
	info, err := json.Marshal(struct {
		Version string
		Time    time.Time
	}{version, time.Unix(0, 0).UTC()})
	if err != nil {
		return err
	}
	tree, err := m.checkout(mod)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	for _, change := range changes {
		if err := change(tree); err != nil {
			return err
		}
	}
	list, err := os.OpenFile(filepath.Join(at, "list"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = list.WriteString(version + "\n")
	if err := errors.Join(err, list.Close()); err != nil {
		return err
	}
	archive, err := os.Create(filepath.Join(at, version+".zip"))
	if err != nil {
		return err
	}
	// CreateFromDir leaves out the folders of other modules.
	err = errors.Join(zip.CreateFromDir(archive, xmodule.Version{Path: m.path, Version: version}, tree), archive.Close())
	return errors.Join(err,
		os.WriteFile(filepath.Join(at, version+".mod"), mod, 0o644),
		os.WriteFile(filepath.Join(at, version+".info"), info, 0o644),
	)
}

// checkout returns a folder with the module's files that Git tracks, and with this go.mod.
func (m module) checkout(mod []byte) (string, error) {
	out, err := exec.Command("git", "-C", m.dir, "ls-files", "-z").Output()
	if err != nil {
		return "", err
	}
	tree, err := os.MkdirTemp("", "release-")
	if err != nil {
		return "", err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(m.dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // it was deleted, and that is not committed yet
		}
		to := filepath.Join(tree, name)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o755)
		}
		if err == nil {
			err = os.WriteFile(to, content, 0o644)
		}
		if err != nil {
			return tree, err
		}
	}
	return tree, os.WriteFile(filepath.Join(tree, "go.mod"), mod, 0o644)
}

package main

import (
	"archive/zip"
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// pikoVersion is the version of Piko that the documents name.
const pikoVersion = "v0.0.0-alpha.20"

// TestRecipe is a user who copies go.mod and program from docs/PIKO.md, word for word, next to a
// clone of this repository. A module proxy has the declarations of Piko at its version.
func TestRecipe(t *testing.T) {
	if testing.Short() {
		t.Skip("resolves and builds a module of its own; skipped in short mode")
	}
	root, err := filepath.Abs("../../..")
	require.NoError(t, err)
	document, err := os.ReadFile(filepath.Join(root, "docs", "PIKO.md"))
	require.NoError(t, err)
	user := t.TempDir()
	app := filepath.Join(user, "app")
	require.NoError(t, os.Mkdir(app, 0o755))
	require.NoError(t, os.Symlink(root, filepath.Join(user, "pikokms")))
	require.NoError(t, os.WriteFile(filepath.Join(app, "go.mod"), block(t, document, "// go.mod\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(app, "main.go"), block(t, document, "package main\n"), 0o644))
	require.NoError(t, declare(filepath.Join(root, "internal", "pikocontract"), filepath.Join(user, "proxy", "piko.sh", "piko", "@v")))

	have, err := exec.Command("go", "env", "GOMODCACHE", "GOPROXY").Output()
	require.NoError(t, err)
	cache, proxies, _ := strings.Cut(strings.TrimSpace(string(have)), "\n")
	run := func(environment []string, arguments ...string) {
		t.Helper()
		command := exec.Command("go", arguments...)
		command.Dir, command.Env = app, append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=-modcacherw", "GONOSUMDB=piko.sh", "GONOSUMCHECK=1")
		command.Env = append(command.Env, environment...)
		out, err := command.CombinedOutput()
		require.NoError(t, err, "go %s: %s", strings.Join(arguments, " "), out)
	}
	// The user has a module cache of its own, since the declarations are not Piko.
	run([]string{
		"GOMODCACHE=" + filepath.Join(user, "cache"),
		"GOPROXY=file://" + filepath.ToSlash(filepath.Join(user, "proxy")) + ",file://" + filepath.ToSlash(filepath.Join(cache, "cache", "download")) + "," + proxies,
	}, "mod", "tidy")
	required, err := os.ReadFile(filepath.Join(app, "go.mod"))
	require.NoError(t, err)
	require.Contains(t, string(required), "piko.sh/piko "+pikoVersion+"\n")
	// Now the module cache is the one used here, in which the other modules are built already.
	run(nil, "mod", "edit", "-replace", "piko.sh/piko="+filepath.Join(root, "internal", "pikocontract"))
	run(nil, "vet", ".")
	run(nil, "build", "-o", filepath.Join(user, "program"), ".")
}

// block returns the first block of code in a document that begins so.
func block(t *testing.T, document []byte, start string) []byte {
	t.Helper()
	for _, found := range regexp.MustCompile("(?s)```[a-z]*\n(.*?)```").FindAllSubmatch(document, -1) {
		if bytes.HasPrefix(found[1], []byte(start)) {
			return found[1]
		}
	}
	t.Fatalf("no block of code begins with %q", start)
	return nil
}

// declare writes a module proxy's files of the declarations of Piko in dir.
func declare(dir, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	err = fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		file, err := w.Create("piko.sh/piko@" + pikoVersion + "/" + filepath.ToSlash(name))
		if err != nil {
			return err
		}
		_, err = file.Write(content)
		return err
	})
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	for suffix, content := range map[string][]byte{
		".mod": mod, ".zip": archive.Bytes(), ".info": []byte(`{"Version":"` + pikoVersion + `","Time":"2026-05-05T02:37:42Z"}`),
	} {
		if err := os.WriteFile(filepath.Join(to, pikoVersion+suffix), content, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(to, "list"), []byte(pikoVersion+"\n"), 0o644)
}

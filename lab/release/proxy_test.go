package main

import (
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	xmodule "golang.org/x/mod/module"
)

// user is someone with a module proxy of their own, in front of the one that is used here.
type user struct {
	proxy       string // its folder
	suffix      string // of versions, which must be new since the go command keeps what it once got
	environment []string
}

func newUser(t *testing.T, modules []module) *user {
	u := &user{proxy: t.TempDir(), suffix: "-test." + strings.ToLower(rand.Text())}
	settings, err := exec.Command("go", "env", "GOPROXY", "GOMODCACHE").Output()
	require.NoError(t, err)
	behind, cache, _ := strings.Cut(strings.TrimSpace(string(settings)), "\n")
	u.environment = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GONOSUMDB=piko.sh", "GONOSUMCHECK=1",
		"GOPROXY=file://"+filepath.ToSlash(u.proxy)+","+behind)
	t.Cleanup(func() {
		for _, m := range modules {
			escaped, _ := xmodule.EscapePath(m.path)
			dirs, _ := filepath.Glob(filepath.Join(cache, filepath.FromSlash(escaped)+"@*"+u.suffix))
			for _, dir := range append(dirs, filepath.Join(cache, "cache", "download", filepath.FromSlash(escaped), "@v")) {
				_ = filepath.Walk(dir, func(name string, _ os.FileInfo, _ error) error { return os.Chmod(name, 0o755) })
				_ = os.RemoveAll(dir)
			}
		}
	})
	return u
}

// do runs the go command in a folder, and returns what it printed.
func (u *user) do(t *testing.T, dir string, arguments ...string) string {
	t.Helper()
	command := exec.Command("go", arguments...)
	command.Dir, command.Env = dir, append(u.environment, "GOBIN="+filepath.Join(dir, "bin"))
	out, err := command.CombinedOutput()
	require.NoError(t, err, "go %s\n%s", strings.Join(arguments, " "), out)
	return string(out)
}

// TestUsersInstallFromProxy is a user with an empty folder, and a module proxy with a version of
// this checkout. The user gets every module by go get, tidies, builds, vets and uses it, and
// installs the command.
func TestUsersInstallFromProxy(t *testing.T) {
	if testing.Short() {
		t.Skip("builds every module once more; skipped in short mode")
	}
	root, err := repository()
	require.NoError(t, err)
	modules, err := published(root)
	require.NoError(t, err)
	u := newUser(t, modules)
	version := "v0.1.0" + u.suffix
	require.NoError(t, writeProxy(u.proxy, modules, version))

	t.Run("go install the commands", func(t *testing.T) {
		dir := t.TempDir()
		u.do(t, dir, "install", "-ldflags=-s -w", rootModule+"/cmd/pikokms@"+version)
		u.do(t, dir, "install", "-ldflags=-s -w", rootModule+"/cmd/pikokms-batch@"+version)
		u.do(t, dir, "install", "-ldflags=-s -w", rootModule+"/cmd/pikokms-gateway@"+version)
		for _, command := range []string{"pikokms", "pikokms-gateway"} {
			out, err := exec.Command(filepath.Join(dir, "bin", command), "--version").CombinedOutput()
			if err != nil || !strings.Contains(string(out), version) {
				t.Fatalf("it says %q (%v), not version %s", out, err, version)
			}
			t.Logf("%s", out)
		}
	})
	programs := os.DirFS(filepath.Join("testdata", "users"))
	for _, m := range modules {
		if name := m.name(); !strings.HasPrefix(name, "cmd/") {
			_, err := fs.Stat(programs, path.Join(name, "main.go.txt"))
			require.NoError(t, err, "no program of a user of %s", m.path)
		}
	}
	err = fs.WalkDir(programs, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name := path.Dir(file) // of a package
		t.Run("go get "+path.Join(rootModule, name), func(t *testing.T) {
			if name == "pikostorage" {
				lookup := exec.Command("go", "list", "-m", "piko.sh/piko@latest")
				lookup.Dir, lookup.Env = t.TempDir(), append(os.Environ(), "GOWORK=off")
				if lookup.Run() != nil {
					t.Skip("skipped: Piko itself can't be had from the module proxy here")
				}
			}
			program, err := fs.ReadFile(programs, file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "main.go"), program, 0o644); err != nil {
				t.Fatal(err)
			}
			u.do(t, dir, "mod", "init", "example.com/user")
			u.do(t, dir, "get", path.Join(rootModule, name)+"@"+version)
			u.do(t, dir, "mod", "tidy")
			u.do(t, dir, "vet", "./...")
			// It builds the program, too.
			if out := u.do(t, dir, "run", "-ldflags=-w", "."); out != "hello\n" {
				t.Fatalf("the program says %q", out)
			}
			required, err := os.ReadFile(filepath.Join(dir, "go.mod"))
			if err != nil {
				t.Fatal(err)
			}
			for _, tests := range []string{"testcontainers", rootModule + "/internal/", rootModule + "/lab"} {
				if strings.Contains(string(required), tests) {
					t.Errorf("a user's go.mod has what only tests need:\n%s", required)
				}
			}
			t.Logf("%s: %d modules required", path.Join(rootModule, name), strings.Count(string(required), "\n\t"))
		})
		return nil
	})
	require.NoError(t, err)
	fmt.Printf("installed from a module proxy: %d modules\n", len(modules))
}

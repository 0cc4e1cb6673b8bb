package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	xmodule "golang.org/x/mod/module"
)

// TestUsersInstallFromProxy is a user with an empty folder, and a module proxy with a version of
// this checkout. The user gets every module by go get, tidies, builds, vets and uses it, and
// installs the command.
func TestUsersInstallFromProxy(t *testing.T) {
	if testing.Short() {
		t.Skip("builds every module once more; skipped in short mode")
	}
	root, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	modules, err := published(root)
	if err != nil {
		t.Fatal(err)
	}
	proxy := t.TempDir()
	// The version is new, since the go command keeps what it once got of a version.
	version := "v0.1.0-test." + strings.ToLower(rand.Text())
	if err := writeProxy(proxy, modules, version); err != nil {
		t.Fatal(err)
	}
	behind, err := exec.Command("go", "env", "GOPROXY").Output()
	if err != nil {
		t.Fatal(err)
	}
	environment := append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GONOSUMDB=piko.sh", "GONOSUMCHECK=1",
		"GOPROXY=file://"+filepath.ToSlash(proxy)+","+strings.TrimSpace(string(behind)))
	do := func(t *testing.T, dir string, arguments ...string) string {
		t.Helper()
		command := exec.Command("go", arguments...)
		command.Dir, command.Env = dir, append(environment, "GOBIN="+filepath.Join(dir, "bin"))
		var out bytes.Buffer
		command.Stdout, command.Stderr = &out, &out
		if err := command.Run(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(arguments, " "), err, out.String())
		}
		return out.String()
	}
	removeLater := func() {
		cache, err := exec.Command("go", "env", "GOMODCACHE").Output()
		if err != nil {
			return
		}
		for _, m := range modules {
			escaped, _ := xmodule.EscapePath(m.path)
			for _, dir := range []string{filepath.FromSlash(escaped) + "@" + version, filepath.Join("cache", "download", filepath.FromSlash(escaped), "@v")} {
				dir = filepath.Join(strings.TrimSpace(string(cache)), dir)
				_ = filepath.Walk(dir, func(name string, _ os.FileInfo, _ error) error { return os.Chmod(name, 0o755) })
				_ = os.RemoveAll(dir)
			}
		}
	}
	t.Cleanup(removeLater)

	t.Run("go install the commands", func(t *testing.T) {
		dir := t.TempDir()
		do(t, dir, "install", "-ldflags=-s -w", ours+"/cmd/pikokms@"+version)
		do(t, dir, "install", "-ldflags=-s -w", ours+"/cmd/pikokms-batch@"+version)
		out, err := exec.Command(filepath.Join(dir, "bin", "pikokms"), "--version").CombinedOutput()
		if err != nil || !strings.Contains(string(out), version) {
			t.Fatalf("it says %q (%v), not version %s", out, err, version)
		}
		t.Logf("%s", out)
	})
	for _, m := range modules {
		name := strings.TrimPrefix(strings.TrimPrefix(m.path, ours), "/")
		if strings.HasPrefix(name, "cmd/") {
			continue
		}
		t.Run("go get "+m.path, func(t *testing.T) {
			if name == "pikostorage" {
				lookup := exec.Command("go", "list", "-m", "piko.sh/piko@latest")
				lookup.Dir, lookup.Env = t.TempDir(), append(os.Environ(), "GOWORK=off")
				if lookup.Run() != nil {
					t.Skip("skipped: Piko itself can't be had from the module proxy here")
				}
			}
			program, err := os.ReadFile(filepath.Join("testdata", "users", filepath.FromSlash(name), "main.go.txt"))
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "main.go"), program, 0o644); err != nil {
				t.Fatal(err)
			}
			do(t, dir, "mod", "init", "example.com/user")
			do(t, dir, "get", m.path+"@"+version)
			do(t, dir, "mod", "tidy")
			do(t, dir, "build", "./...")
			do(t, dir, "vet", "./...")
			if out := do(t, dir, "run", "."); out != "hello\n" {
				t.Fatalf("the program says %q", out)
			}
			required, err := os.ReadFile(filepath.Join(dir, "go.mod"))
			if err != nil {
				t.Fatal(err)
			}
			for _, tests := range []string{"testcontainers", ours + "/internal/"} {
				if strings.Contains(string(required), tests) {
					t.Errorf("a user's go.mod has what only tests need:\n%s", required)
				}
			}
			t.Logf("%s: %d modules required", m.path, strings.Count(string(required), "\n\t"))
		})
	}
	fmt.Printf("installed from a module proxy: %d modules\n", len(modules))
}

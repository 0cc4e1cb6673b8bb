package verbs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestProgramOfReadme builds and runs the Go program of README.md with the go.mod that stands
// there.
func TestProgramOfReadme(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: it builds a program with its own go.mod")
	}
	text, err := os.ReadFile(filepath.Join(repository, "README.md"))
	require.NoError(t, err)
	root, err := filepath.Abs(repository)
	require.NoError(t, err)
	module, program := blocksOf(string(text), "text"), blocksOf(string(text), "go")
	require.NotEmpty(t, module)
	require.NotEmpty(t, program)
	require.Contains(t, module[0].text, "=> ../pikokms\n")
	dir := t.TempDir()
	write := func(name, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	write("go.mod", strings.Replace(module[0].text, "=> ../pikokms\n", "=> "+root+"\n", 1))
	write("main.go", program[0].text)
	_, _, _, err = execute(t, "keygen", "-o", filepath.Join(dir, "dev.key"))
	require.NoError(t, err)
	for _, arguments := range [][]string{{"mod", "tidy"}, {"run", "."}} {
		command := exec.Command("go", arguments...)
		command.Dir = dir
		command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
		out, err := command.CombinedOutput()
		require.NoError(t, err, string(out))
		if arguments[0] == "run" {
			require.Contains(t, string(out), "encrypted at rest\n")
		}
	}
	stored, err := os.ReadFile(filepath.Join(dir, "uploads", "notes", "1"))
	require.NoError(t, err)
	require.NotContains(t, string(stored), "encrypted at rest")
}

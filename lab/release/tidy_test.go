package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTidyKnowsANewModule adds a module to the checkout and imports it in another one, whose go.mod
// does not require it yet.
func TestTidyKnowsANewModule(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":                   "module piko.sh/pikokms\n\ngo 1.26.0\n",
		"pikokms.go":               "package pikokms\n",
		"provider/new/go.mod":      "module piko.sh/pikokms/provider/new\n\ngo 1.26.0\n\nrequire piko.sh/pikokms v0.3.0\n",
		"provider/new/new.go":      "package new\n\nimport _ \"piko.sh/pikokms\"\n",
		"cmd/pikokms/go.mod":       "module piko.sh/pikokms/cmd/pikokms\n\ngo 1.26.0\n\nrequire piko.sh/pikokms v0.3.0\n",
		"cmd/pikokms/pikokms.go":   "package main\n\nimport (\n\t_ \"piko.sh/pikokms\"\n\t_ \"piko.sh/pikokms/provider/new\"\n)\n\nfunc main() {}\n",
		"cmd/gateway/go.mod":       "module piko.sh/pikokms/cmd/gateway\n\ngo 1.26.0\n\nrequire piko.sh/pikokms v0.3.0\n",
		"cmd/gateway/gateway.go":   "package main\n\nimport (\n\t_ \"piko.sh/pikokms\"\n\t_ \"piko.sh/pikokms/cmd/pikokms/x\"\n)\n\nfunc main() {}\n",
		"cmd/pikokms/x/pikokms.go": "package x\n\nimport _ \"piko.sh/pikokms/provider/new\"\n",
	} {
		path := filepath.Join(root, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	require.NoError(t, tidy(root))
	for _, m := range []string{"pikokms", "gateway"} {
		text, err := os.ReadFile(filepath.Join(root, "cmd", m, "go.mod"))
		require.NoError(t, err)
		require.Regexp(t, `piko\.sh/pikokms/provider/new v0\.3\.0`, string(text))
		require.NotContains(t, string(text), newModule)
		require.NotContains(t, string(text), "replace")
	}
}

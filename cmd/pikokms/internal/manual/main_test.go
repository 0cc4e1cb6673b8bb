package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/verbs"
)

// TestArchiveHasManual makes the folder of an archive twice, as a packager does. Every command has
// a page with all its flags, every shell its completions, and both times give the same bytes.
func TestArchiveHasManual(t *testing.T) {
	dir := t.TempDir()
	read := func(elements ...string) string {
		text, err := os.ReadFile(filepath.Join(elements...))
		require.NoError(t, err)
		return string(text)
	}
	for _, name := range []string{"one", "two"} {
		require.NoError(t, run("v1.2.3", "2026-01-31T10:00:00Z", []string{filepath.Join(dir, name)}))
	}
	pages, err := filepath.Glob(filepath.Join(dir, "one", "*", "*"))
	require.NoError(t, err)
	for _, page := range pages {
		kind, name := filepath.Base(filepath.Dir(page)), filepath.Base(page)
		require.Equal(t, read(page), read(dir, "two", kind, name), name)
	}
	commands := commandsBelow(verbs.New())
	require.Len(t, pages, 1+len(commands)+4)

	root := read(dir, "one", "man", "pikokms.1")
	for _, part := range []string{".SH FOLDERS AND BUCKETS", ".SH CONFIGURATION", ".SH KEYS", ".SH FILES", ".SH EXIT STATUS", "PIKOKMS_KEY", "pikokms v1.2.3", "Jan 2026"} {
		require.Contains(t, root, part)
	}
	require.Contains(t, read(dir, "one", "man", "pikokms-branch-keys.1"), ".SH TABLES OF BRANCH KEYS")
	for _, c := range commands {
		page := read(dir, "one", "man", strings.ReplaceAll(c.CommandPath(), " ", "-")+".1")
		c.Flags().VisitAll(func(f *pflag.Flag) {
			require.Contains(t, page, `\fB--`+f.Name+`\fP`, c.Name())
		})
		require.Equal(t, c.Flags().Lookup("key") != nil, strings.Contains(page, "What a "), c.Name())
	}
	for _, shell := range []string{"pikokms.bash", "_pikokms", "pikokms.fish", "pikokms.ps1"} {
		require.Contains(t, read(dir, "one", "completions", shell), "pikokms")
	}
	require.Error(t, run("", "yesterday", []string{dir}))
}

// commandsBelow returns the commands below a command.
func commandsBelow(c *cobra.Command) (below []*cobra.Command) {
	for _, b := range c.Commands() {
		below = append(append(below, b), commandsBelow(b)...)
	}
	return below
}

package verbs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"mvdan.cc/sh/v3/interp"

	"piko.sh/pikokms/kmstest"
)

// trouble is an entry of docs/TROUBLESHOOTING.md: a heading with the text of a message, and
// statements of which the last one fails with it.
type trouble struct {
	line     int
	text     string
	provoked string
}

func troubles(t *testing.T) (all []trouble) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(repository, "docs", "TROUBLESHOOTING.md"))
	require.NoError(t, err)
	inside := false
	for i, line := range strings.Split(string(page), "\n") {
		text, isHeading := strings.CutPrefix(line, "### `")
		switch {
		case isHeading:
			all = append(all, trouble{line: i + 1, text: strings.TrimSuffix(text, "`")})
		case line == "<!-- provoke":
			inside = true
		case line == "-->":
			inside = false
		case inside:
			all[len(all)-1].provoked += line + "\n"
		}
	}
	require.NotEmpty(t, all)
	return all
}

// verbs matches the formatting verbs of package fmt.
var verbs = regexp.MustCompile(`%[-+# 0-9.*]*[a-zA-Z]`)

// TestTroublesAreInTheSources looks for the text of each entry among the strings of all sources.
func TestTroublesAreInTheSources(t *testing.T) {
	var texts strings.Builder
	require.NoError(t, filepath.WalkDir(repository, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(node ast.Node) bool {
			if text, ok := constant(node); ok {
				texts.WriteString(verbs.ReplaceAllString(text, "\n") + "\n")
				return false
			}
			return true
		})
		return nil
	}))
	for _, entry := range troubles(t) {
		for part := range strings.SplitSeq(entry.text, "…") {
			if !strings.Contains(texts.String(), strings.TrimSpace(part)) {
				t.Errorf("docs/TROUBLESHOOTING.md:%d: no source says %q", entry.line, part)
			}
		}
	}
}

// constant returns the value of a string literal, or of several that are joined.
func constant(node ast.Node) (string, bool) {
	switch e := node.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, err := strconv.Unquote(e.Value)
			return text, err == nil
		}
	case *ast.BinaryExpr:
		left, ok := constant(e.X)
		right, alsoOK := constant(e.Y)
		return left + right, ok && alsoOK
	}
	return "", false
}

// TestTroublesAreProvoked provokes the error of each entry that describes how.
func TestTroublesAreProvoked(t *testing.T) {
	startsManyProcesses(t)
	t.Parallel()
	s := newSandbox(t)
	key := func(alias string, k kmstest.Key) kmstest.Key {
		k.Alias = "alias/" + alias
		return s.kms.CreateKey(k)
	}
	disabled, deleted, stalled := key("disabled", kmstest.Key{}), key("deleted", kmstest.Key{}), key("stalled", kmstest.Key{})
	denied, down, page := key("denied", kmstest.Key{}), key("down", kmstest.Key{}), key("page", kmstest.Key{})
	key("signing", kmstest.Key{Spec: "RSA_2048", Usage: "SIGN_VERIFY"})
	old, err := os.ReadFile(filepath.Join(repository, "testdata", "vectors", "0014-aes-256-300x128-python.msg"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "uncommitted.enc"), old, 0o666))
	setUp(t, s, usualSetup+`
pikokms keygen -o other.key
pikokms encrypt -k local:dev.key -c tenant=42 -o tenant.enc notes.txt
pikokms encrypt -k 'awskms://alias/disabled?region=eu-west-1' -o disabled.enc notes.txt
pikokms encrypt -k 'awskms://alias/deleted?region=eu-west-1' -o deleted.enc notes.txt
pikokms encrypt -k 'awskms://alias/stalled?region=eu-west-1' -o stalled.enc notes.txt
mkdir mixed
cp notes.enc mixed/a
printf '\002\000\000\000\020{}' >mixed/b
`)
	s.kms.SetState(disabled.ARN, "Disabled")
	s.kms.SetState(deleted.ARN, "PendingDeletion")
	s.kms.Inject(kmstest.Fault{Key: denied.ARN, Do: kmstest.Deny()})
	s.kms.Inject(kmstest.Fault{Key: stalled.ARN, Do: kmstest.Stall()})
	s.kms.Inject(kmstest.Fault{Key: down.ARN, Do: kmstest.Error("KMSInternalException", "an internal error")})
	s.kms.Inject(kmstest.Fault{Key: page.ARN, Do: kmstest.Body(http.StatusNotFound, "text/html", "<html>not here</html>")})
	provoked := 0
	all := troubles(t)
	for _, entry := range all {
		if entry.provoked == "" {
			continue
		}
		provoked++
		statements, err := parseShell(entry.provoked)
		require.NoError(t, err, "docs/TROUBLESHOOTING.md:%d", entry.line)
		last := len(statements) - 1
		require.NoError(t, s.run(t.Context(), statements[:last]...), "docs/TROUBLESHOOTING.md:%d", entry.line)
		failure := s.run(t.Context(), statements[last])
		require.ErrorAs(t, failure, new(interp.ExitStatus), "docs/TROUBLESHOOTING.md:%d: it does not fail", entry.line)
		wanted := strings.ReplaceAll(regexp.QuoteMeta(entry.text), "…", ".*")
		if !regexp.MustCompile(wanted).MatchString(failure.Error()) {
			t.Errorf("docs/TROUBLESHOOTING.md:%d: it says %q, not %v", entry.line, entry.text, failure)
		}
	}
	t.Logf("%d of %d entries of docs/TROUBLESHOOTING.md provoked", provoked, len(all))
}

func setUp(t *testing.T, s *sandbox, text string) {
	t.Helper()
	statements, err := parseShell(text)
	require.NoError(t, err)
	require.NoError(t, s.run(t.Context(), statements...))
}

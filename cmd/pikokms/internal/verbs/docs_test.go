package verbs

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"mvdan.cc/sh/v3/syntax"
)

// repository is the folder of the repository.
var repository = filepath.Join("..", "..", "..", "..")

// block is a part of a document that a shell can run.
type block struct {
	line  int // of its first line
	text  string
	setUp bool // it is for the tests alone, and makes what a reader has already
}

// blocksOf returns the blocks of a Markdown text: those that are fenced as a language, and comments
// that begin with "sandbox". The latter set up what the blocks after them need.
func blocksOf(text, language string) (blocks []block) {
	var open *block
	end := ""
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case open != nil && trimmed == end:
			blocks, open = append(blocks, *open), nil
		case open != nil:
			open.text += line + "\n"
		case trimmed == "```"+language:
			open, end = &block{line: i + 2}, "```"
		case trimmed == "<!-- sandbox":
			open, end = &block{line: i + 2, setUp: true}, "-->"
		}
	}
	return blocks
}

// callsOfPikokms returns the calls of pikokms in a statement, including those by way of another
// program.
func callsOfPikokms(statement *syntax.Stmt) (calls []*syntax.CallExpr) {
	syntax.Walk(statement, func(node syntax.Node) bool {
		if call, ok := node.(*syntax.CallExpr); ok {
			words := make([]string, len(call.Args))
			for i, word := range call.Args {
				words[i] = word.Lit() // empty if it is no plain text
			}
			if indexOfPikokms(words) >= 0 {
				calls = append(calls, call)
			}
		}
		return true
	})
	return calls
}

// indexOfPikokms returns where a command line of pikokms begins in the words of a command, or -1.
func indexOfPikokms(words []string) int {
	if len(words) > 0 && words[0] == "pikokms" {
		return 0
	}
	return slices.IndexFunc(words[:max(0, len(words)-1)], func(word string) bool {
		next := words[slices.Index(words, word)+1]
		return word == "pikokms" && slices.ContainsFunc(New().Commands(), func(c *cobra.Command) bool { return c.Name() == next })
	})
}

// setups has what the examples of a command's help need. If a command is not in it they need
// usualSetup. Pages may have more in comments of their own.
var setups = map[string]string{
	"pikokms":                     "pikokms keygen -o new.key",
	"pikokms keygen":              "true",
	"pikokms keys check":          "pikokms keygen -o dev.key",
	"pikokms keys policy":         "true",
	"pikokms branch-keys":         "true",
	"pikokms branch-keys check":   branchKey,
	"pikokms branch-keys create":  "pikokms keygen -o dev.key",
	"pikokms branch-keys disable": branchKey,
	"pikokms branch-keys enable":  branchKey,
	"pikokms branch-keys destroy": branchKey + "pikokms branch-keys disable -k 'branchkey://keys?key=ARN' tenant-42\na-week-passes tenant-42",
	"pikokms branch-keys list":    branchKey,
	"pikokms branch-keys show":    branchKey,
	"pikokms branch-keys version": branchKey,
	"pikokms branch-keys move": branchKey + `pikokms keygen -o dev.key
pikokms keygen -o new.key
pikokms branch-keys create -k branchkey:keys.db?master=local:dev.key --table
`,
	"pikokms decrypt": usualSetup + "rm notes.txt",
	"pikokms encrypt": "pikokms keygen -o dev.key && pikokms keygen -o escrow.key",
	"pikokms rewrap": `pikokms keygen -o dev.key
pikokms keygen -o old.key
pikokms encrypt -k local:old.key --in-place photos
pikokms encrypt -k local:dev.key --in-place 's3://bucket/backups/?region=eu-west-1'
`,
}

// branchKey is what the examples about branch keys need.
const branchKey = "pikokms branch-keys create --table -k 'branchkey://keys?key=ARN' -c tenant=42 tenant-42\n"

// usualSetup is what the examples of most commands need.
const usualSetup = `tar cf backup.tar photos
pikokms keygen -o dev.key
pikokms encrypt -k local:dev.key -o notes.enc notes.txt
pikokms encrypt -k local:dev.key -o photos.enc --suffix .enc photos
pikokms encrypt -k local:dev.key --in-place photos
pikokms encrypt -k 'awskms://alias/backups?region=eu-west-1' -c purpose=backup -o backup.enc backup.tar
pikokms encrypt -k 'awskms://alias/backups?region=eu-west-1' -o 's3://bucket/backups/monday.enc?region=eu-west-1' notes.txt
pikokms encrypt -k local:dev.key -o 's3://bucket/notes.enc?region=eu-west-1' notes.txt
`

// pages returns the documents in folders of the repository.
func pages(t *testing.T, folders ...string) (all []string) {
	t.Helper()
	for _, folder := range folders {
		found, err := filepath.Glob(filepath.Join(repository, folder, "*.md"))
		require.NoError(t, err)
		require.NotEmpty(t, found, folder)
		all = append(all, found...)
	}
	return all
}

// documents returns the blocks of README.md, of docs, and of the examples of the command's help.
func documents(t *testing.T) map[string][]block {
	t.Helper()
	all := make(map[string][]block)
	for _, page := range append(pages(t, "docs", "docs/notes"), filepath.Join(repository, "README.md")) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		name := strings.TrimPrefix(filepath.ToSlash(page), "../../../../")
		if blocks := blocksOf(string(text), "sh"); len(blocks) > 0 {
			if setup := setups[name]; setup != "" {
				blocks = append([]block{{text: setup, setUp: true}}, blocks...)
			}
			all[name] = blocks
		}
	}
	var add func(*cobra.Command)
	add = func(command *cobra.Command) {
		if command.Example != "" {
			setup, ok := setups[command.CommandPath()]
			if !ok {
				setup = usualSetup
			}
			all[command.CommandPath()+" --help"] = []block{{text: setup, setUp: true}, {line: 1, text: command.Example}}
		}
		for _, below := range command.Commands() {
			add(below)
		}
	}
	add(New())
	return all
}

// TestDocumentedCommandLines runs each command line of pikokms in README.md, docs and the help.
// They run in the order of the document, with the statements around them.
func TestDocumentedCommandLines(t *testing.T) {
	startsManyProcesses(t)
	t.Parallel()
	var mu sync.Mutex
	total, ran := 0, 0
	parsed := make(map[string]int) // by the reason
	t.Run("in", func(t *testing.T) {
		for name, blocks := range documents(t) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				lines, called := runBlocks(t, name, blocks)
				if name == "README.md" || strings.HasSuffix(name, "--help") {
					require.NotZero(t, lines)
				}
				mu.Lock()
				defer mu.Unlock()
				total += lines
				for _, why := range called {
					if why == "" {
						ran++
					} else {
						parsed[why]++
					}
				}
			})
		}
	})
	t.Logf("%d command lines of the documents: %d run, %d only parsed", total, ran, total-ran)
	for _, why := range slices.Sorted(maps.Keys(parsed)) {
		t.Logf("%d only parsed: %s", parsed[why], why)
	}
}

// runBlocks runs the blocks of a document. It returns how many command lines they have and, for
// each that was called, why it was only parsed, or nothing if it was run.
func runBlocks(t *testing.T, name string, blocks []block) (lines int, called map[string]string) {
	called = make(map[string]string)
	var s *sandbox
	for _, b := range blocks {
		statements, err := parseShell(b.text)
		if err != nil {
			t.Errorf("%s:%d: %v", name, b.line, err)
			continue
		}
		expected := make(map[syntax.Pos]bool)
		for _, statement := range statements {
			for _, call := range callsOfPikokms(statement) {
				expected[call.Pos()] = true
			}
		}
		if len(expected) == 0 && !b.setUp {
			continue // It is not about the command.
		}
		if s == nil {
			s = newSandbox(t)
		}
		clear(s.called)
		for _, statement := range statements {
			if err := s.run(t.Context(), statement); err != nil {
				t.Errorf("%s:%d: %v", name, b.line+int(statement.Pos().Line())-1, err)
			}
		}
		if b.setUp {
			continue
		}
		lines += len(expected)
		for at := range expected {
			line := fmt.Sprintf("%s:%d:%d", name, b.line+int(at.Line())-1, at.Col())
			why, ok := s.called[at]
			if !ok {
				t.Errorf("%s: this line is not run; have the document make what it needs", line)
				continue
			}
			called[line] = why
		}
	}
	return lines, called
}

var (
	links    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headings = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noAnchor = regexp.MustCompile(`[^\pL\pN _-]`)
)

// TestLinksOfDocuments checks that each link within the repository leads to a file, and to a
// heading in it.
func TestLinksOfDocuments(t *testing.T) {
	checked := 0
	for _, page := range pages(t, ".", "docs", "docs/notes") {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, link := range links.FindAllStringSubmatch(string(text), -1) {
			path, anchor, _ := strings.Cut(link[1], "#")
			if strings.Contains(path, "://") || strings.HasPrefix(path, "mailto:") {
				continue
			}
			checked++
			target := page
			if path != "" {
				target = filepath.Join(filepath.Dir(page), filepath.FromSlash(path))
			}
			info, err := os.Stat(target)
			if err != nil {
				t.Errorf("%s: there is no %s", page, link[1])
				continue
			}
			if anchor == "" || info.IsDir() {
				continue
			}
			content, err := os.ReadFile(target)
			require.NoError(t, err)
			if !slices.ContainsFunc(headings.FindAllStringSubmatch(string(content), -1), func(heading []string) bool {
				return strings.ReplaceAll(noAnchor.ReplaceAllString(strings.ToLower(heading[1]), ""), " ", "-") == anchor
			}) {
				t.Errorf("%s: %s has no such heading", page, link[1])
			}
		}
	}
	require.NotZero(t, checked)
}

// TestEachCommandHasExamples checks that the help of each command shows how to call it.
func TestEachCommandHasExamples(t *testing.T) {
	for _, command := range New().Commands() {
		if command.HasSubCommands() || command.Name() == "help" || command.Name() == "completion" {
			continue
		}
		if command.Example == "" {
			t.Errorf("%s has no example", command.CommandPath())
		}
	}
}

// TestRestoreWithEncryptionCLIAndSDK opens an object as docs/OPERATIONS.md does without pikokms.
func TestRestoreWithEncryptionCLIAndSDK(t *testing.T) {
	cli, python := os.Getenv("PIKOKMS_ENCRYPTION_CLI"), os.Getenv("PIKOKMS_PYTHON")
	if cli == "" || python == "" {
		t.Skip("skipped: PIKOKMS_ENCRYPTION_CLI and PIKOKMS_PYTHON name no aws-encryption-cli and no Python with AWS's SDK")
	}
	page, err := os.ReadFile(filepath.Join(repository, "docs", "OPERATIONS.md"))
	require.NoError(t, err)
	find := func(language, program string) string {
		blocks := blocksOf(string(page), language)
		i := slices.IndexFunc(blocks, func(b block) bool { return !b.setUp && strings.Contains(b.text, program) })
		require.GreaterOrEqual(t, i, 0)
		return blocks[i].text
	}
	s := newSandbox(t)
	setUp(t, s, "pikokms encrypt -f -k awskms:///"+keyARN+" -o 's3://bucket/backups/monday.tar?region=eu-west-1' report.pdf")
	setUp(t, s, find("sh", "aws-encryption-cli"))
	setUp(t, s, "cmp monday.tar report.pdf && rm monday.tar")
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "restore.py"), []byte(find("python", "aws_encryption_sdk")), 0o666))
	setUp(t, s, "'"+python+"' restore.py && cmp monday.tar report.pdf")
}

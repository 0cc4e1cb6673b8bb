// Command manual writes what goes beside pikokms in an archive: a man page for each command, and
// completions for the shells.
//
//	manual [-version VERSION] [-date DATE] DIR
//
// The man pages are in DIR/man and the completions in DIR/completions. It is a program of its own,
// so that pikokms does not link what turns help texts into man pages.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"piko.sh/pikokms/cmd/pikokms/internal/admin"
	"piko.sh/pikokms/cmd/pikokms/internal/config"
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/verbs"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
)

func main() {
	version := flag.String("version", "", "the version in the pages' footers")
	date := flag.String("date", "", "the date in the pages' footers, as in RFC 3339 (default today)")
	flag.Parse()
	if err := run(*version, *date, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "manual:", err)
		os.Exit(1)
	}
}

func run(version, date string, arguments []string) error {
	if len(arguments) != 1 {
		return errors.New("usage: manual [-version VERSION] [-date DATE] DIR")
	}
	header := doc.GenManHeader{Section: "1", Manual: "pikokms", Source: strings.TrimSpace("pikokms " + version)}
	if date != "" {
		day, err := time.Parse(time.RFC3339, date)
		if err != nil {
			return fmt.Errorf("-date: %w", err)
		}
		header.Date = &day
	}
	return errors.Join(
		writePages(filepath.Join(arguments[0], "man"), header),
		writeCompletions(filepath.Join(arguments[0], "completions")),
	)
}

func writePages(dir string, header doc.GenManHeader) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root := verbs.New()
	root.DisableAutoGenTag = true // it would add today's date
	root.Use, root.DisableFlagsInUseLine = "pikokms COMMAND [ARGUMENT]...", true
	root.Long = escape(root.Long) + sections(places.Manual+work.Manual+config.Manual+verbs.Manual)
	for _, c := range root.Commands() {
		refer(c, "What a `KEY` is, how files are written and the exit status are in **pikokms(1)**.")
	}
	return doc.GenManTree(root, &header, dir)
}

// refer adds references to other pages to the help of a command, and to that of the commands below
// it. The text keys refers to the explanation of KEYs.
func refer(c *cobra.Command, keys string) {
	c.Long = escape(c.Long)
	if console.HasTopic(c, "keys") || console.HasTopic(c, "branch-keys") && c.Name() != "branch-keys" {
		c.Long += "\n\n" + keys
	}
	if console.HasTopic(c, "places") {
		c.Long += "\n\nPlaces and globs are explained in **pikokms(1)**."
	}
	if console.HasTopic(c, "long-work") {
		c.Long += "\n\nHow long work is planned, slowed down and resumed is explained there, too."
	}
	if c.Name() == "branch-keys" {
		c.Long += sections(admin.Manual)
		keys = "What a `KEY` is here and the exit status are in **pikokms-branch-keys(1)**."
	}
	for _, below := range c.Commands() {
		refer(below, keys)
	}
}

// escape escapes a help text for Markdown.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "<", `\<`, "`", "\\`").Replace(text)
}

// sections returns the sections of a help text as Markdown. A section has a line with its title and
// a colon, and then indented lines, which stay as they are.
func sections(text string) string {
	var b strings.Builder
	for section := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		title, body, _ := strings.Cut(section, ":\n")
		fmt.Fprintf(&b, "\n\n# %s\n\n```\n%s\n```\n", strings.ToUpper(title), strings.ReplaceAll("\n"+body, "\n  ", "\n")[1:])
	}
	return b.String()
}

func writeCompletions(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root := verbs.New()
	// The file names are those that the shells look for.
	for name, generate := range map[string]func(io.Writer) error{
		"pikokms.bash": func(w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		"_pikokms":     root.GenZshCompletion,
		"pikokms.fish": func(w io.Writer) error { return root.GenFishCompletion(w, true) },
		"pikokms.ps1":  root.GenPowerShellCompletionWithDesc,
	} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := errors.Join(generate(f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

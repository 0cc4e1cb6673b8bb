package verbs

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"piko.sh/pikokms/cmd/pikokms/internal/admin"
	"piko.sh/pikokms/cmd/pikokms/internal/config"
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
)

// The lines and columns of the screen that a help text fits on, except for long examples.
const (
	helpLines   = 40
	helpColumns = 80
)

// topic is a text that concerns several commands.
type topic struct{ name, about, text string }

// topics returns what help explains besides the commands.
func topics() []topic {
	keys, rest, _ := strings.Cut(Manual, "\nFiles:")
	return []topic{
		{"keys", "how a KEY is named", keys},
		{"places", "folders, buckets and globs", places.Manual},
		{"long-work", "many objects: plans, speed, going on after an interruption", work.Manual},
		{"configuration", "flags in the environment and in a file; telemetry", config.Manual},
		{"files", "IN and OUT, and what the exit status means", "\nFiles:" + rest},
		{"branch-keys", "tables of branch keys", admin.Manual},
	}
}

// topicsOf returns the names of the topics that a command's help refers to.
func topicsOf(c *cobra.Command) []string {
	names := []string{}
	for _, t := range topics() {
		if console.HasTopic(c, t.name) {
			names = append(names, t.name)
		}
	}
	return names
}

func helpCommand() *cobra.Command {
	var all bool
	command := &cobra.Command{
		Use:   "help [--all] [COMMAND... | TOPIC]",
		Short: "Explain a command, or what several commands have in common",
		Long: `Help explains a command on a screen, and with --all says everything about it: the
whole text and all flags. A topic is what several commands have in common: keys,
places, long-work, configuration, files or branch-keys.`,
		Example: `  pikokms help --all encrypt
  pikokms help keys`,
		DisableFlagsInUseLine: true,
		ValidArgsFunction: func(command *cobra.Command, arguments []string, _ string) ([]string, cobra.ShellCompDirective) {
			at, _, err := command.Root().Find(arguments)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			names := []string{}
			for _, below := range at.Commands() {
				names = append(names, below.Name())
			}
			if len(arguments) == 0 {
				for _, t := range topics() {
					names = append(names, t.name)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(command *cobra.Command, arguments []string) error {
			root, out := command.Root(), command.OutOrStdout()
			topicIndex := slices.IndexFunc(topics(), func(t topic) bool { return len(arguments) == 1 && t.name == arguments[0] })
			about, rest, err := root.Find(arguments)
			if err == nil && len(rest) > 0 {
				err = fmt.Errorf("there is no %s", strings.Join(arguments, " "))
			}
			if err != nil && topicIndex < 0 {
				return console.Usage(err)
			}
			if err == nil {
				about.InitDefaultHelpFlag()
				about.InitDefaultVersionFlag()
				if err := writeHelp(out, about, all); err != nil {
					return err
				}
			}
			if topicIndex >= 0 {
				_, err := fmt.Fprint(out, topics()[topicIndex].text)
				return err
			}
			return nil
		},
	}
	command.Flags().BoolVar(&all, "all", false, "say everything about the command")
	return command
}

// showHelp writes what --help shows.
func showHelp(c *cobra.Command, _ []string) { _ = writeHelp(c.OutOrStdout(), c, false) }

// writeHelp explains a command: on a screen, or wholly.
func writeHelp(w io.Writer, c *cobra.Command, all bool) error {
	if all {
		_, err := io.WriteString(w, helpOf(c, true, true))
		return err
	}
	text := helpOf(c, false, true)
	if strings.Count(text, "\n") > helpLines {
		text = helpOf(c, false, false)
	}
	_, err := io.WriteString(w, text)
	return err
}

func helpOf(c *cobra.Command, everything, allFlags bool) string {
	var b strings.Builder
	about := c.Long
	if !everything {
		about, _, _ = strings.Cut(about, "\n\n")
	}
	use := c.UseLine()
	if c.HasAvailableSubCommands() {
		use = c.CommandPath() + " COMMAND [ARGUMENT]..."
	}
	fmt.Fprintf(&b, "%s\n\nUsage:\n%s", about, fold("  "+use))
	if c.HasAvailableSubCommands() {
		b.WriteString("\nCommands:\n")
		for _, below := range c.Commands() {
			if below.IsAvailableCommand() || below.Name() == "help" {
				fmt.Fprintf(&b, "  %-*s  %s\n", c.NamePadding(), below.Name(), below.Short)
			}
		}
	}
	if c.Example != "" && (everything || c.HasParent()) {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", c.Example)
	}
	shown, hidden := flagsOf(c, allFlags), false
	c.LocalFlags().VisitAll(func(f *pflag.Flag) { hidden = hidden || !f.Hidden && shown.Lookup(f.Name) == nil })
	if shown.HasAvailableFlags() {
		fmt.Fprintf(&b, "\nFlags:\n%s", shown.FlagUsagesWrapped(helpColumns))
	}
	if everything && c.HasParent() {
		fmt.Fprintf(&b, "\nFlags of all commands:\n%s", c.InheritedFlags().FlagUsagesWrapped(helpColumns))
	}
	names := topicsOf(c)
	for _, t := range topics() {
		if everything && (!c.HasParent() && t.name != "branch-keys" || slices.Contains(names, t.name)) {
			b.WriteString(t.text)
		}
	}
	switch {
	case everything:
	case !c.HasParent():
		b.WriteString("\nTopics, for pikokms help TOPIC:\n")
		for _, t := range topics() {
			fmt.Fprintf(&b, "  %-13s  %s\n", t.name, t.about)
		}
		b.WriteString("\nA command on a screen: pikokms COMMAND --help; all of it: pikokms help --all COMMAND.\n")
	default:
		more := "All of it"
		if hidden {
			more = "More flags, and all of it"
		}
		fmt.Fprintf(&b, "\n%s: pikokms help --all %s\n", more, strings.TrimPrefix(c.CommandPath(), "pikokms "))
		if len(names) > 0 {
			fmt.Fprintf(&b, "See also: pikokms help %s\n", strings.Join(names, " | "))
		}
	}
	return b.String()
}

// flagsOf returns the flags of a command: all of them, or those of a short help.
func flagsOf(c *cobra.Command, all bool) *pflag.FlagSet {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.SortFlags = false
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if all || console.IsInShortHelp(f) {
			flags.AddFlag(f)
		}
	})
	return flags
}

// fold breaks a line that is too long for a screen at its spaces.
func fold(line string) string {
	var b strings.Builder
	width := 0
	for i, word := range strings.Split(line, " ") {
		switch {
		case i > 0 && word != "" && width+1+len(word) > helpColumns:
			b.WriteString("\n      ")
			width = 6
		case i > 0:
			b.WriteByte(' ')
			width++
		}
		b.WriteString(word)
		width += len(word)
	}
	return b.String() + "\n"
}

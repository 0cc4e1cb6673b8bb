package console

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The annotations that control a command's help.
const (
	topicsAnnotation = "pikokms_topics" // of a command: the names of topics
	shortAnnotation  = "pikokms_short"  // of a flag
)

// AddTopics adds topics that the help of a command refers to.
func AddTopics(command *cobra.Command, names ...string) {
	if command.Annotations == nil {
		command.Annotations = make(map[string]string, 1)
	}
	command.Annotations[topicsAnnotation] += " " + strings.Join(names, " ")
}

// HasTopic reports whether the help of a command refers to a topic.
func HasTopic(command *cobra.Command, name string) bool {
	return slices.Contains(strings.Fields(command.Annotations[topicsAnnotation]), name)
}

// ShowInShortHelp marks the flags that help shows if not all of them fit on a screen.
func ShowInShortHelp(flags *pflag.FlagSet, names ...string) {
	for _, name := range names {
		if err := flags.SetAnnotation(name, shortAnnotation, nil); err != nil {
			panic(err) // there is no such flag
		}
	}
}

// IsInShortHelp reports whether ShowInShortHelp marked a flag.
func IsInShortHelp(f *pflag.Flag) bool {
	_, ok := f.Annotations[shortAnnotation]
	return ok
}

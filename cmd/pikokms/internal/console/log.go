// Package console writes what the command says: its log and errors, and the progress of work on a
// terminal.
package console

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"
)

// The formats of what is written to standard error.
const (
	FormatText = "text"
	FormatJSON = "json"
)

const LogFormatFlag = "log-format"

// AddLogFormat adds the flag of the format.
func AddLogFormat(root *cobra.Command) {
	root.PersistentFlags().String(LogFormatFlag, FormatText, "say things as this `FORMAT`: text or json")
	ShowInShortHelp(root.PersistentFlags(), LogFormatFlag)
	_ = root.RegisterFlagCompletionFunc(LogFormatFlag, cobra.FixedCompletions([]string{FormatText, FormatJSON}, cobra.ShellCompDirectiveNoFileComp))
}

const QuietFlag = "quiet"

// AddQuiet adds the flag that limits the log to errors.
func AddQuiet(root *cobra.Command) {
	root.PersistentFlags().BoolP(QuietFlag, "q", false, "say nothing on standard error but errors")
	ShowInShortHelp(root.PersistentFlags(), QuietFlag)
}

// IsQuiet reports whether the log is limited to errors.
func IsQuiet() bool { return !slog.Default().Enabled(context.Background(), slog.LevelInfo) }

// SetLogFormat sets the format of the log from here on. It sets slog's default logger, which other
// packages use, too.
func SetLogFormat(format string, quiet bool) error {
	level := slog.LevelInfo
	if quiet {
		level = slog.LevelError
	}
	slog.SetLogLoggerLevel(slog.LevelWarn) // of package log, through which S3's upload manager warns
	switch format {
	case FormatText:
		slog.SetDefault(slog.New(&textHandler{w: os.Stderr, mu: new(sync.Mutex), level: level}))
	case FormatJSON:
		slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	default:
		return fmt.Errorf("--%s %q; known are %s, %s", LogFormatFlag, format, FormatText, FormatJSON)
	}
	return nil
}

// IsTextLog reports whether the log is text for people. They may also be shown a progress bar.
func IsTextLog() bool {
	_, ok := slog.Default().Handler().(*textHandler)
	return ok
}

// Say writes a line to standard error. People see the text alone. Programs, with JSON, also get the
// attributes, which are those of slog.Log.
func Say(level slog.Level, text string, attributes ...any) {
	if IsTextLog() {
		attributes = nil
	}
	slog.Log(context.Background(), level, text, attributes...)
}

// textHandler writes records as lines that begin with the command's name.
type textHandler struct {
	w      io.Writer
	mu     *sync.Mutex // shared by handlers with further attributes
	suffix string      // attributes of all records
	level  slog.Level
}

func (h *textHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level
}

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "pikokms: %s%s", r.Message, h.suffix)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(attributeText(a))
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h *textHandler) WithAttrs(attributes []slog.Attr) slog.Handler {
	more := *h
	for _, a := range attributes {
		more.suffix += attributeText(a)
	}
	return &more
}

// WithGroup implements slog.Handler. It ignores groups.
func (h *textHandler) WithGroup(string) slog.Handler { return h }

func attributeText(a slog.Attr) string {
	return fmt.Sprintf(" %s=%s", a.Key, Printable(a.Value.Resolve().String()))
}

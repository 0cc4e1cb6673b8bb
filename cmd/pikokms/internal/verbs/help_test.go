package verbs

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/creack/pty"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// helpText returns what a command prints for its user.
func helpText(t *testing.T, arguments ...string) string {
	t.Helper()
	stdout := new(strings.Builder)
	root := New()
	root.SetOut(stdout)
	root.SetArgs(arguments)
	require.NoError(t, root.Execute(), arguments)
	return stdout.String()
}

// TestHelpFitsOnAScreen checks that the help of each command fits on a screen, and that its whole
// help has all flags.
func TestHelpFitsOnAScreen(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	commands := 0
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		commands++
		path := strings.Fields(c.CommandPath())[1:]
		screen := helpText(t, append(path, "--help")...)
		require.LessOrEqual(t, strings.Count(screen, "\n"), helpLines, screen)
		if help := helpText(t, append([]string{"help"}, path...)...); !strings.HasPrefix(help, screen) { // a topic may follow
			t.Errorf("%s --help says %q, and help %q", c.CommandPath(), screen, help)
		}
		whole := helpText(t, append([]string{"help", "--all"}, path...)...)
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				require.Contains(t, whole, "--"+f.Name, c.CommandPath())
			}
		})
		if strings.Contains(screen, "More flags") {
			require.Greater(t, len(whole), len(screen))
		}
		for _, name := range topicsOf(c) {
			require.NotEmpty(t, helpText(t, "help", name))
		}
		for _, below := range c.Commands() {
			if below.Name() != "completion" {
				look(below)
			}
		}
	}
	root := New()
	root.InitDefaultHelpFlag()
	look(root)
	require.Greater(t, commands, 15)
}

// frames separates the frames that are drawn on a line of a terminal one after the other.
var frames = regexp.MustCompile(`[\r\n]`)

// escapes matches sequences that control a terminal, and take no columns.
var escapes = regexp.MustCompile(`\x1b\[[0-9]*[A-Za-z]`)

// TestBarsFitNarrowTerminals checks that a bar takes one line of a terminal, however narrow it is.
func TestBarsFitNarrowTerminals(t *testing.T) {
	startsManyProcesses(t)
	server, key := kmsKey(t)
	require.NotEmpty(t, server.URL)
	for _, columns := range []uint16{30, 40, 60, 80, 200} {
		dir, _, _ := newFolder(t, 12)
		terminal, tty, err := pty.Open()
		if err != nil {
			t.Skip("no pseudo-terminal: ", err)
		}
		require.NoError(t, pty.Setsize(tty, &pty.Winsize{Rows: 24, Cols: columns}))
		command := exec.CommandContext(t.Context(), "pikokms", "encrypt", "-k", key, "--in-place", "--kms-rate", "8", dir)
		command.Stderr, command.Env = tty, append(os.Environ(), "GORACE="+noRaceSleep, "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test")
		require.NoError(t, command.Start())
		require.NoError(t, tty.Close())
		_, screen := watch(terminal, "\x00")
		require.NoError(t, command.Wait())
		drawn := 0
		for _, frame := range frames.Split(<-screen, -1) {
			frame = strings.TrimRight(escapes.ReplaceAllString(frame, ""), " ")
			if frame == "" || strings.HasPrefix(frame, "pikokms: ") {
				continue
			}
			drawn++
			require.Contains(t, frame, " of 12")
			require.LessOrEqual(t, utf8.RuneCountInString(frame), int(columns), frame)
		}
		require.NotZero(t, drawn, "at %d columns", columns)
		_ = terminal.Close()
	}
}

package verbs

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/provider/local"
)

func keygenCommand() *cobra.Command {
	var path string
	command := &cobra.Command{
		Use:   "keygen -o FILE",
		Short: "Make a local key",
		Long: `Keygen makes a new random key in a file that only its owner can read, and says
on standard error which KEY names it. An existing file is kept. Whoever has the
file can decrypt, and without it nothing can be decrypted: keep a copy.`,
		Example:               `  pikokms keygen -o dev.key`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
		RunE: func(*cobra.Command, []string) error {
			if path == "" || path == "-" {
				return console.Usage(errors.New("keygen writes to a file; name it with -o FILE"))
			}
			if err := local.Generate(path); err != nil {
				return err
			}
			absolute, err := filepath.Abs(path)
			if err != nil {
				return err
			}
			slashed := filepath.ToSlash(absolute)
			if !strings.HasPrefix(slashed, "/") {
				slashed = "/" + slashed // On Windows it begins with the letter of a drive.
			}
			u := url.URL{Scheme: local.Scheme, Path: slashed}
			if console.IsTextLog() && !console.IsQuiet() {
				fmt.Fprintf(os.Stderr, "The key is in %s\nUse it as      %s\n", absolute, &u)
				return nil
			}
			console.Say(slog.LevelInfo, "made a key", "file", absolute, "key", u.String())
			return nil
		},
	}
	command.Flags().StringVarP(&path, "out", "o", "", "the `FILE` to make")
	return command
}

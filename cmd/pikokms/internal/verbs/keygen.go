package verbs

import (
	"crypto/hpke"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/provider/local"
)

// kemsOfTypes has the KEM of each type of key, which is nil for an AES key.
var kemsOfTypes = map[string]hpke.KEM{"aes": nil, "mlkem768-x25519": hpke.MLKEM768X25519(), "mlkem768-p256": hpke.MLKEM768P256()}

func keygenCommand() *cobra.Command {
	var path, kind string
	command := &cobra.Command{
		Use:   "keygen [--type TYPE] -o FILE",
		Short: "Make a local key",
		Long: `Keygen makes a new random key in a file that only its owner can read, and says
on standard error which KEY names it. An existing file is kept. Whoever has the
file can decrypt, and without it nothing can be decrypted: keep a copy.

The TYPE aes is a key that encrypts and decrypts. The others have a public half,
which FILE.pub gets, too: who has that file alone can encrypt, and not decrypt.
They combine ML-KEM-768, which withstands quantum computers as far as is known,
with X25519 or, where FIPS 140 allows no X25519, with P-256. AWS's tools know
none of them, and open such a message by another KEY that it is for.`,
		Example: `  pikokms keygen -o dev.key
  pikokms keygen --type mlkem768-x25519 -o recovery.key`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
		RunE: func(*cobra.Command, []string) error {
			if path == "" || path == "-" {
				return console.Usage(errors.New("keygen writes to a file; name it with -o FILE"))
			}
			kem, ok := kemsOfTypes[kind]
			if !ok {
				return console.Usage(fmt.Errorf("--type %q; known are %s", kind, strings.Join(slices.Sorted(maps.Keys(kemsOfTypes)), ", ")))
			}
			generate := local.Generate
			if kem != nil {
				generate = func(path string) error { return local.GenerateHPKE(path, kem) }
			}
			if err := generate(path); err != nil {
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
			u := url.URL{Scheme: local.KeyService.Scheme, Path: slashed}
			if console.IsTextLog() && !console.IsQuiet() {
				fmt.Fprintf(os.Stderr, "The key is in %s\nUse it as      %s\n", absolute, &u)
				if kem != nil {
					fmt.Fprintf(os.Stderr, "To encrypt only, use %s.pub\n", &u)
				}
				return nil
			}
			console.Say(slog.LevelInfo, "made a key", "file", absolute, "key", u.String())
			return nil
		},
	}
	command.Flags().StringVarP(&path, "out", "o", "", "the `FILE` to make")
	command.Flags().StringVar(&kind, "type", "aes", "the `TYPE` of key: "+strings.Join(slices.Sorted(maps.Keys(kemsOfTypes)), ", "))
	return command
}

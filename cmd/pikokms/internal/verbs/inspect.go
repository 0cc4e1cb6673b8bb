package verbs

import (
	"cmp"
	"os"

	"github.com/spf13/cobra"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/files"
	"piko.sh/pikokms/cmd/pikokms/internal/look"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
)

func inspectCommand() *cobra.Command {
	var asJSON bool
	var e work.Each
	command := &cobra.Command{
		Use:   "inspect [--json] [--include GLOB]... [--exclude GLOB]... [IN]...",
		Short: "Show what a message, or each of a folder or a bucket, says of itself",
		Long: `Inspect shows the header and the sizes of a message. It needs no key, and so
verifies nothing: whoever could change the message could change all that is
shown. It fails when no whole message has IN's size, and cannot tell every cut
from a shorter message.

With --json, sizes are in bytes, and plaintext_size is that of the compressed
plaintext when transformers names a compression, and null when the message is
signed, since signatures vary in size, or IN is cut short or has trailing data.

Of a folder or a bucket it shows a line for each object: its size as stored, its
kind as ls has it, its suite, its name and the keys that can open it (of an object
of AWS's S3 Encryption Client, its algorithms, since it names no key); and then how
many objects are under each key. Data keys under branch keys, Vault and OpenBao say
the version of the key, too. With --json there is a line of JSON for each: its
name, kind and size, what is wrong with it, and its message as above.`,
		Example: `  pikokms inspect notes.enc
  pikokms inspect --json notes.enc | jq .encryption_context
  pikokms inspect --include '*.enc' 's3://bucket/backups/?region=eu-west-1'`,
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			if e.IsForPlaces(arguments) {
				return survey(command.Context(), &e, os.Stdout, asJSON, arguments)
			}
			in, size, err := files.OpenInput(arguments)
			if err != nil {
				return err
			}
			defer in.Close()
			r, sizeErr, err := look.Inspect(in, size)
			if err != nil {
				return err
			}
			if asJSON {
				err = r.PrintJSON(os.Stdout)
			} else {
				err = r.Print(os.Stdout)
			}
			return cmp.Or(err, sizeErr)
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	console.ShowInShortHelp(command.Flags(), "json")
	e.Add(command)
	return command
}

package verbs

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/s3ec"
)

func verifyCommand() *cobra.Command {
	var o options
	var e work.Each
	var plain string
	command := &cobra.Command{
		Use:   "verify [-k KEY]... [-c NAME=VALUE]... [PLACE]...",
		Short: "Check that files, folders and buckets decrypt",
		Long: `Verify decrypts and decompresses each object to its end and writes nothing: every
frame is authenticated, and a signature verified. What fails is named on standard
error, the others go on, and the exit status is then 1. With no PLACE it reads
standard input.`,
		Example: `  pikokms verify -k local:dev.key notes.enc photos
  pikokms verify -k 'awskms://alias/backups?region=eu-west-1' --include '*.enc' \
      --report verified.jsonl 's3://bucket/backups/?region=eu-west-1'`,
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			ctx := command.Context()
			skipPlain, err := parsePlain(plain)
			if err != nil {
				return err
			}
			r, err := o.openReading(ctx, e.Use)
			if err != nil {
				return err
			}
			defer keys.CloseAll(r.keys)
			p, err := e.Open(ctx, arguments)
			if err != nil {
				return err
			}
			defer p.Close()
			return e.Run(ctx, "verified", p, func(ctx context.Context, i work.Item) (n int64, err error) {
				s, err := i.Read(ctx)
				if err != nil {
					return 0, err
				}
				defer func() { err = errors.Join(err, s.Close()) }()
				if err := refusePlain(s, skipPlain); err != nil {
					return 0, err
				}
				content, err := r.decrypt(ctx, s)
				if err != nil {
					return 0, err
				}
				return io.Copy(io.Discard, content) // its memory is given back at its end
			})
		},
	}
	o.addKeys(command, keyToDecrypt, pairToDecrypt)
	o.addReading(command)
	e.Add(command)
	addPlain(command, &plain)
	e.AddLong(command)
	return command
}

// addPlain adds the flag for objects that are not encrypted.
func addPlain(command *cobra.Command, plain *string) {
	command.Flags().StringVar(plain, "plain", "refuse", "what to do with an object that does not begin as an encrypted one: refuse or skip")
	console.ShowInShortHelp(command.Flags(), "plain")
	_ = command.RegisterFlagCompletionFunc("plain", cobra.FixedCompletions([]string{"refuse", "skip"}, cobra.ShellCompDirectiveNoFileComp))
}

func parsePlain(plain string) (skip bool, err error) {
	if plain != "refuse" && plain != "skip" {
		return false, console.Usage(fmt.Errorf("--plain %q; known are refuse, skip", plain))
	}
	return plain == "skip", nil
}

// refusePlain returns an error for an object that does not begin as an encrypted one.
func refusePlain(s *places.Source, skip bool) error {
	start, err := s.Start()
	switch {
	case err != nil:
		return err
	case s.Client.IsInstruction:
		return work.Skipped(s3ec.ErrInstruction.Error())
	case s.Client.Header != nil:
		return nil
	case header.Sniff(start) || pikov2.Sniff(start):
		return nil
	case skip:
		return work.Skipped("it is not encrypted")
	}
	return fmt.Errorf("%w: it does not begin as an AWS Encryption SDK message", pikokms.ErrPlaintext)
}

package command

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/pikov2"
)

func verifyCommand() *cobra.Command {
	var o options
	var e each
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
			r, err := o.reading()
			if err != nil {
				return err
			}
			defer closeAll(r.keys)
			if err := e.use("-k", r.keys); err != nil {
				return err
			}
			if err := openAny(ctx, r.keys); err != nil {
				return err
			}
			p, err := e.open(ctx, arguments)
			if err != nil {
				return err
			}
			defer p.Close()
			return e.run(ctx, "verified", p, func(ctx context.Context, i item) (n int64, err error) {
				s, err := i.read(ctx)
				if err != nil {
					return 0, err
				}
				defer func() { err = errors.Join(err, s.Close()) }()
				if err := refusePlain(s, skipPlain); err != nil {
					return 0, err
				}
				content, err := r.registry.Reverse(ctx, s, r.pairs)
				if err != nil {
					return 0, err
				}
				return io.Copy(io.Discard, content)
			})
		},
	}
	o.addKeys(command, keyToDecrypt, pairToDecrypt)
	o.addReading(command)
	e.add(command)
	addPlain(command, &plain)
	e.addLong(command)
	return command
}

// addPlain adds the flag that says what becomes of objects that are not encrypted.
func addPlain(command *cobra.Command, plain *string) {
	command.Flags().StringVar(plain, "plain", "refuse", "what to do with an object that does not begin as an encrypted one: refuse or skip")
	_ = command.RegisterFlagCompletionFunc("plain", cobra.FixedCompletions([]string{"refuse", "skip"}, cobra.ShellCompDirectiveNoFileComp))
}

func parsePlain(plain string) (skip bool, err error) {
	if plain != "refuse" && plain != "skip" {
		return false, usage(fmt.Errorf("--plain %q; known are refuse, skip", plain))
	}
	return plain == "skip", nil
}

// refusePlain returns an error for an object that does not begin as an encrypted one.
func refusePlain(s *source, skip bool) error {
	start, err := s.start()
	switch {
	case err != nil:
		return err
	case header.Sniff(start) || pikov2.Sniff(start):
		return nil
	case skip:
		return skipped("it is not encrypted")
	}
	return fmt.Errorf("%w: it does not begin as an AWS Encryption SDK message", pikokms.ErrPlaintext)
}

// reading is what decrypts.
type reading struct {
	keys     []*key
	registry *pikokms.Registry
	pairs    map[string]string
}

// reading returns what the flags say of decryption. The keys are not opened yet.
func (o *options) reading() (*reading, error) {
	pairs, err := o.requiredContext()
	if err != nil {
		return nil, err
	}
	ks, err := o.check(false)
	if err != nil {
		return nil, err
	}
	registry, err := o.registry(false, ks, message.Encrypter{})
	if err != nil {
		return nil, err
	}
	return &reading{ks, registry, pairs}, nil
}

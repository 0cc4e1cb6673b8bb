package verbs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/internal/look"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// refuseEncrypted is the Job.Judge of encrypt. It makes sure that nothing is encrypted twice.
func refuseEncrypted(ctx context.Context, s *places.Source, malformed bool) error {
	if s.Client.Header != nil || s.Client.IsInstruction {
		return places.ErrS3Client
	}
	r, err := look.Plaintext(ctx, s.Reader, malformed)
	switch {
	case errors.Is(err, look.ErrAlready):
		return work.Skipped(look.ErrAlready.Error())
	case err == nil:
		s.Reader = r
	}
	return err
}

// encryptEach encrypts each object of IN.
func encryptEach(ctx context.Context, b *work.Bulk, o *options, arguments []string, encrypter message.Encrypter, transformers []string, pairs map[string]string) error {
	if err := b.Check(o.out, o.replace, o.encode || o.decode); err != nil {
		return err
	}
	ks, err := o.check(true)
	if err != nil {
		return err
	}
	defer keys.CloseAll(ks)
	if err := b.Use("-k", ks); err != nil {
		return err
	}
	b.GoesOn = b.InPlace
	host, err := o.host(true, ks, encrypter, transformers...)
	if err != nil {
		return err
	}
	open := keys.OpenAll
	if b.DryRun {
		open = keys.OpenLocal
	}
	if err := open(ctx, ks); err != nil {
		return err
	}
	transform := func(ctx context.Context, source io.Reader) (io.Reader, error) {
		return messageReader(host.EncryptObject(ctx, "", source, pairs))
	}
	sample := sampleOf(transform)
	return b.Run(ctx, o.out, o.replace, arguments, work.Job{
		Done:   "encrypted",
		Rename: b.AddSuffix,
		Judge: func(ctx context.Context, _ work.Item, s *places.Source) error {
			return refuseEncrypted(ctx, s, b.Malformed)
		},
		Convert: func(ctx context.Context, s *places.Source) (io.Reader, error) { return transform(ctx, s) },
		Made: func(ctx context.Context, from, to *look.Object) (bool, error) {
			h, err := sample(ctx)
			if err != nil || !to.IsUnder(h) {
				return false, err
			}
			size, known := to.PlaintextSize()
			return (!known || size == from.Size) && to.HasPairs(h.EncryptionContext), nil
		},
	})
}

func encryptCommand() *cobra.Command {
	var o options
	var b work.Bulk
	var compression string
	var sign bool
	var required []string
	command := &cobra.Command{
		Use:   "encrypt [-k KEY]... [-c NAME=VALUE]... [--compress FORMAT] [--in-place | -o OUT] [-f] [IN]...",
		Short: "Encrypt a file or a stream, a folder or a bucket",
		Long: `Encrypt makes an AWS Encryption SDK message of IN. With several keys, each
of them wraps the data key, and can decrypt alone.

The pairs that -c states, the encryption context, are authenticated but not
secret: the message and AWS CloudTrail show them. The message requires a pair
that --required names, but does not store it: decrypt must state it again.

The size of compressed data tells something about its content. Do not compress
when an attacker can add text to a secret and see the size.

IN may be a PLACE: then each object of it is encrypted to the folder or bucket
OUT, or in place, with its metadata. What is encrypted already is skipped, so that
the same command line goes on where it was interrupted. Several INs go to a folder
or a bucket, too: a file by its name, what a folder holds below the folder's. What
begins as a message and has no whole header fails: --malformed-as-plaintext encrypts
binary files that happen to begin so. Of one file or stream, what is encrypted
already is refused.`,
		Example: `  pikokms encrypt -k local:dev.key -o photos.enc --suffix .enc photos
  pikokms encrypt -k local:dev.key --in-place --include '*.jpg' photos
  pikokms encrypt -k local:dev.key -o encrypted *.txt
  pikokms encrypt -k local:dev.key -o notes.enc notes.txt
  pikokms encrypt -k 'awskms://alias/backups?region=eu-west-1' -k local:escrow.key \
      -c purpose=backup --compress zstd -o backup.enc backup.tar`,
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			var transformers []string
			if compression != "none" {
				if !slices.Contains(compress.Formats(), compression) {
					return console.Usage(fmt.Errorf("--compress %q; known are none, %s", compression, strings.Join(compress.Formats(), ", ")))
				}
				transformers = append(transformers, compression)
			}
			pairs, err := o.encryptionContext()
			if err != nil {
				return err
			}
			if err := checkPairs(pairs, required); err != nil {
				return console.Usage(err)
			}
			encrypter := message.Encrypter{Required: required}
			if sign {
				encrypter.Suite = header.AES256GCMHKDFSHA512CommitKeyECDSAP384
			}
			if b.IsForPlaces(o.out, arguments) {
				return encryptEach(command.Context(), &b, &o, arguments, encrypter, transformers, pairs)
			}
			return runStream(&o, command, arguments, encrypter, transformers, func(ctx context.Context, host *pikokms.Host, in io.Reader) (io.Reader, error) {
				content, err := look.Plaintext(ctx, bufio.NewReader(in), b.Malformed)
				if err != nil {
					return nil, err
				}
				return messageReader(host.EncryptObject(ctx, "", content, pairs))
			})
		},
	}
	o.addKeys(command, "a `KEY` that can decrypt; may be repeated", "a pair `NAME=VALUE` of encryption context; may be repeated")
	o.addOutput(command)
	formats := append([]string{"none"}, compress.Formats()...)
	command.Flags().StringVar(&compression, "compress", "none", "compress in this `FORMAT` first: "+strings.Join(formats, ", "))
	console.ShowInShortHelp(command.Flags(), "compress")
	command.Flags().BoolVar(&sign, "sign", false, "add an ECDSA signature: those who can only decrypt can't have made the message")
	command.Flags().StringArrayVar(&required, "required", nil, "the `NAME` of a -c pair that the message requires and does not store; may be repeated")
	b.Add(command, "is added to")
	command.Flags().BoolVar(&b.Malformed, "malformed-as-plaintext", false, "encrypt what begins as a message, but has no whole header")
	_ = command.RegisterFlagCompletionFunc("compress", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	return command
}

// checkPairs returns an error if a message can't have the pairs of -c, or if there is none of a name
// of --required.
func checkPairs(pairs map[string]string, required []string) error {
	for name := range pairs {
		// A host that binds objects to their names requires these two.
		bound := (name == pikokms.PairBucket || name == pikokms.PairObject) && slices.Contains(required, name)
		if provider.CheckStated(map[string]string{name: ""}) != nil && !bound {
			return fmt.Errorf("-c %s: names that begin with piko- are kept for what pikokms itself says of a message", name)
		}
	}
	if err := header.CheckContext(pairs); err != nil {
		return fmt.Errorf("-c: %w", err)
	}
	for _, name := range required {
		if _, ok := pairs[name]; !ok {
			return fmt.Errorf("--required %q: there is no such pair; give it with -c", name)
		}
	}
	return nil
}

// messageReader returns r as an io.Reader, which is nil if there is an error.
func messageReader(r *message.EncryptReader, err error) (io.Reader, error) {
	if err != nil {
		return nil, err
	}
	return r, nil
}

// sampleOf returns a function that returns the header of a message that transform made. The first
// call makes the message.
func sampleOf(transform func(context.Context, io.Reader) (io.Reader, error)) func(context.Context) (*header.Header, error) {
	var mu sync.Mutex
	var made *header.Header
	return func(ctx context.Context) (*header.Header, error) {
		mu.Lock()
		defer mu.Unlock()
		if made != nil {
			return made, nil
		}
		r, err := transform(ctx, strings.NewReader(""))
		if err != nil {
			return nil, err
		}
		encrypted, ok := r.(*message.EncryptReader)
		if !ok {
			return nil, fmt.Errorf("no message but a %T", r)
		}
		made = encrypted.Header()
		return made, nil
	}
}

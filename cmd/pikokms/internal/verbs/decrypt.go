package verbs

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/internal/look"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/message"
)

// decryptEach decrypts each object of IN.
func decryptEach(ctx context.Context, b *work.Bulk, o *options, arguments []string) error {
	if err := b.Check(o.out, o.replace, o.encode || o.decode); err != nil {
		return err
	}
	skipPlain, err := parsePlain(b.Plain)
	if err != nil {
		return err
	}
	r, err := o.openReading(ctx, b.Use)
	if err != nil {
		return err
	}
	defer keys.CloseAll(r.keys)
	return b.Run(ctx, o.out, o.replace, arguments, work.Job{
		Done:   "decrypted",
		Rename: b.CutSuffix,
		Judge: func(_ context.Context, i work.Item, s *places.Source) error {
			err := refusePlain(s, skipPlain)
			// An object that was listed as encrypted had another size than its plaintext. A file
			// keeps its time.
			if b.InPlace && errors.Is(err, pikokms.ErrPlaintext) && !i.Since.IsZero() && (s.File != nil || work.IsSince(s.ModTime, i)) && s.Length != i.Size {
				return work.DoneBefore
			}
			return err
		},
		Convert: func(ctx context.Context, s *places.Source) (io.Reader, error) {
			return r.decrypt(ctx, s)
		},
		Made: func(_ context.Context, from, to *look.Object) (bool, error) {
			size, known := from.PlaintextSize()
			return !known || size == to.Size, nil
		},
	})
}

func decryptCommand() *cobra.Command {
	var o options
	var b work.Bulk
	command := &cobra.Command{
		Use:   "decrypt [-k KEY]... [-c NAME=VALUE]... [--in-place | -o OUT] [-f] [IN]...",
		Short: "Decrypt a file or a stream, a folder or a bucket",
		Long: `Decrypt gives back what encrypt was given, decompressed. The keys are tried in
order, local ones first, and only keys that are given are used, whatever the
message names. A key that can't be reached matters only if no other key opens
the message.

Each pair that -c states must be one of the message's, either stored in it or
required by it. With -c NAME, without a value, the message must store a pair of
that name. All pairs that a message requires must be stated.

On standard output each part appears once it is verified. Only exit status 0
says that the output is whole.

IN may be a PLACE: then each object of it is decrypted to the folder or bucket
OUT, or in place, with its metadata. Several INs go there, too: a file by its name,
what a folder holds below the folder's.`,
		Example: `  pikokms decrypt -k local:dev.key -o photos.dec --suffix .enc photos.enc
  pikokms decrypt -k local:dev.key -o notes.txt notes.enc
  pikokms decrypt -k 'awskms://alias/backups?region=eu-west-1' -c purpose=backup backup.enc | tar x`,
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			if b.IsForPlaces(o.out, arguments) {
				return decryptEach(command.Context(), &b, &o, arguments)
			}
			pairs, err := o.requiredContext()
			if err != nil {
				return err
			}
			return runStream(&o, command, arguments, message.Encrypter{}, nil, func(ctx context.Context, host *pikokms.Host, in io.Reader) (io.Reader, error) {
				return o.decrypt(ctx, host, in, pairs)
			})
		},
	}
	o.addKeys(command, keyToDecrypt, pairToDecrypt)
	o.addOutput(command)
	o.addReading(command)
	b.Add(command, "is taken off")
	addPlain(command, &b.Plain)
	return command
}

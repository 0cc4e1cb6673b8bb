package verbs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/telemetry"
)

func catCommand() *cobra.Command {
	var o options
	var at places.Opener
	var rangeText string
	command := &cobra.Command{
		Use:   "cat [-k KEY]... [-c NAME=VALUE]... [--range RANGE] IN",
		Short: "Write a file's or an object's plaintext, or a part of it, to standard output",
		Long: `Cat decrypts IN, a file or one object of a bucket, to standard output. With
--range it reads and decrypts no more than the frames that the part touches, and
verifies those: the exit status then says nothing of the rest. A download from a
bucket that breaks off goes on where it broke.

A range is FROM-TO, FROM- or -N: from byte FROM, counted from 0, to byte TO or
the end, or the last N bytes. Signed and unframed messages have no ranges, and
compressed ones only if the compression is zstd-seekable.`,
		Example: `  pikokms cat -k local:dev.key notes.enc
  pikokms cat -k local:dev.key --range 0-99 notes.enc
  pikokms cat -k local:dev.key --range -100 's3://bucket/notes.enc?region=eu-west-1'`,
		Args:                  cobra.ExactArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) (err error) {
			ctx, end := telemetry.TraceObject(command.Context(), 0, arguments[0], -1)
			defer func() { end("read", err) }()
			ranged := command.Flags().Changed("range")
			var requested byteRange
			if ranged {
				if requested, err = parseRange(rangeText); err != nil {
					return console.Usage(fmt.Errorf("--range %q: %w", rangeText, err))
				}
			}
			r, err := o.reading()
			if err != nil {
				return err
			}
			defer keys.CloseAll(r.keys)
			p, err := at.Open(ctx, arguments[0])
			if err != nil {
				return err
			}
			defer p.Close()
			if p.IsMany() {
				return fmt.Errorf("%s is a folder or a bucket; name one object", p.Name)
			}
			if ranged {
				return r.writePart(ctx, os.Stdout, p, requested)
			}
			return r.writeWhole(ctx, os.Stdout, p)
		},
	}
	o.addKeys(command, keyToDecrypt, pairToDecrypt)
	o.addReading(command)
	at.AddTimeout(command)
	command.Flags().StringVar(&rangeText, "range", "", "write only this `RANGE` of bytes: FROM-TO, FROM- or -N")
	console.ShowInShortHelp(command.Flags(), "range")
	return command
}

func (r *reading) writeWhole(ctx context.Context, w io.Writer, p *places.Place) (err error) {
	if p.IsBucket() {
		return r.writeDownload(ctx, w, p)
	}
	s, err := p.Read(ctx, p.Only)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	content, err := r.decrypt(ctx, s)
	if err != nil {
		return err
	}
	return incomplete(io.Copy(struct{ io.Writer }{w}, content))
}

// writeDownload writes the plaintext of an object of a bucket. It goes on where a download broke
// off.
func (r *reading) writeDownload(ctx context.Context, w io.Writer, p *places.Place) (err error) {
	stored, err := p.OpenSteady(ctx, p.Only)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stored.Close()) }()
	whole := bufio.NewReaderSize(io.NewSectionReader(stored, 0, stored.Size()), 256<<10)
	content, err := r.decrypt(ctx, places.WithClient(whole, stored))
	if err != nil {
		return err
	}
	return incomplete(io.Copy(struct{ io.Writer }{w}, content))
}

func (r *reading) writePart(ctx context.Context, w io.Writer, p *places.Place, requested byteRange) (err error) {
	stored, err := p.OpenSteady(ctx, p.Only)
	if err != nil {
		return err
	}
	content, err := r.host.OpenObject(ctx, "", stored, r.pairs)
	if err != nil {
		return errors.Join(err, stored.Close())
	}
	defer func() { err = errors.Join(err, content.Close()) }() // and stored
	offset, length, err := requested.resolve(content.Size())
	if err != nil {
		return err
	}
	// Frames are read once each: a buffer takes several.
	return incomplete(io.CopyBuffer(struct{ io.Writer }{w}, io.NewSectionReader(content, offset, length), make([]byte, 256<<10)))
}

// incomplete adds to an error that some output was written before it, if any was.
func incomplete(written int64, err error) error {
	if err != nil && written > 0 {
		return fmt.Errorf("%w; the output so far is not the whole", err)
	}
	return err
}

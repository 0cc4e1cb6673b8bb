package command

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/pikov2"
)

func lsCommand() *cobra.Command {
	var e each
	command := &cobra.Command{
		Use:   "ls [--include GLOB]... [--exclude GLOB]... [PLACE]...",
		Short: "List objects with the sizes of their plaintext",
		Long: `Ls lists the objects of folders and buckets, or of this folder if it is told of
none: the size of the plaintext in bytes, whether the object is encrypted, plain,
piko-v2 (Piko's old format) or damaged, and its name. The size is "-" where the
header does not tell it: of what is compressed, signed or damaged, and of Piko's
old format. What the other commands leave out (symbolic links, empty folders) is
named as left-out. It needs no key, and so verifies nothing.`,
		Example: `  pikokms ls photos
  pikokms ls --include '*.enc' 's3://bucket/backups/?region=eu-west-1'`,
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			ctx := command.Context()
			if len(arguments) == 0 {
				arguments = []string{"."}
			}
			p, err := e.open(ctx, arguments)
			if err != nil {
				return err
			}
			defer p.Close()
			for _, u := range p.unlisted {
				say(slog.LevelError, fmt.Sprintf("%s: %s", printable(p.titleOf(u)), u.Reason), "object", p.titleOf(u))
			}
			for i := range p.leftOut() {
				if _, err := fmt.Printf("%14s  %-9s  %s\n", "-", kindLeftOut, printable(i.title())); err != nil {
					return err
				}
			}
			failed := int64(0)
			err = e.examineAll(ctx, p, func(x *examined) error {
				if x.err != nil && x.kind == "" {
					failed++
					say(slog.LevelError, fmt.Sprintf("%s: %s", printable(x.name), explain(x.err)), "object", x.name)
					return nil
				}
				size := "-"
				if n, ok := x.plaintextSize(); ok {
					size = fmt.Sprint(n)
				}
				_, err := fmt.Printf("%14s  %-9s  %s\n", size, x.kind, printable(x.name))
				return err
			})
			if err == nil {
				err = p.unread(failed, "could not be read")
			}
			return err
		},
	}
	e.add(command)
	return command
}

// The kinds of objects.
const (
	kindEncrypted = "encrypted"
	kindPikoV2    = "piko-v2"
	kindPlain     = "plain"
	kindDamaged   = "damaged"
	kindS3Client  = "s3-client" // AWS's S3 Encryption Client wrote it
	kindLeftOut   = "left-out"  // it is no object
)

// examined is what an object says of itself.
type examined struct {
	name string
	kind string // empty if it could not be read
	size int64  // in bytes, as stored

	modTime time.Time
	report  *report // of a message whose header can be read
	err     error   // why it is damaged or could not be read
}

// plaintextSize returns the size of an object's plaintext, if it is known.
func (x *examined) plaintextSize() (int64, bool) {
	switch {
	case x.kind == kindPlain:
		return x.size, true
	case x.kind != kindEncrypted || x.report.PlaintextSize == nil || len(x.report.Transformers) > 0:
		return 0, false
	}
	return *x.report.PlaintextSize, true
}

// examine reads an object's header.
func examine(ctx context.Context, p *place, key string) *examined {
	x := &examined{name: p.title(key)}
	stored, err := p.open(ctx, key)
	if err != nil {
		x.err = err
		return x
	}
	x.modTime = stored.ModTime()
	x.look(io.NewSectionReader(stored, 0, stored.Size()))
	if x.kind == kindPlain {
		switch is, err := p.isS3Client(ctx, key, stored); {
		case err != nil:
			x.kind, x.err = "", err
		case is:
			x.kind = kindS3Client
		}
	}
	if err := stored.Close(); err != nil && x.err == nil {
		x.kind, x.err = "", err
	}
	return x
}

func (x *examined) look(content *io.SectionReader) {
	x.size = content.Size()
	start := make([]byte, header.SniffSize)
	n, err := content.ReadAt(start, 0)
	if err != nil && err != io.EOF {
		x.err = err
		return
	}
	switch start = start[:n]; {
	case pikov2.Sniff(start):
		x.kind = kindPikoV2
	case !header.Sniff(start):
		x.kind = kindPlain
	default:
		r, sizeErr, err := inspect(content, x.size)
		x.report, x.err, x.kind = r, sizeErr, kindEncrypted
		if err != nil {
			x.err = err
		}
		if x.err != nil {
			x.kind = kindDamaged
		}
		if isOfStorage(err) {
			x.kind = ""
		}
	}
}

// examineAll examines the objects of a plan side by side, again where that may help, and gives them
// to take in their order. It ends when all objects fail.
func (e *each) examineAll(ctx context.Context, p *plan, take func(*examined) error) error {
	stop := new(stopping)
	err := inOrder(ctx, e.jobs, stop.until(p.all()), func(i item) *examined {
		x, err := retry(ctx, i, stop, func(ctx context.Context, i item) (*examined, error) {
			x := examine(ctx, i.place, i.key)
			if x.kind == "" {
				return x, x.err
			}
			return x, nil
		})
		stop.count(err)
		return x
	}, take)
	if err == nil && stop.reason() != "" {
		err = fmt.Errorf("stopped after %s", stop.reason())
	}
	return err
}

package verbs

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/files"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/telemetry"
	"piko.sh/pikokms/message"
)

// runStream reads IN through the reader that open returns, and writes OUT.
func runStream(o *options, command *cobra.Command, arguments []string, encrypter message.Encrypter, transformers []string, open func(context.Context, *pikokms.Host, io.Reader) (io.Reader, error)) (err error) {
	encrypting, name := command.Name() == "encrypt", "standard input"
	if len(arguments) > 0 {
		name = arguments[0]
	}
	ctx, end := telemetry.TraceObject(command.Context(), 0, name, -1)
	defer func() { end(command.Name()+"ed", err) }()
	ks, err := o.check(encrypting)
	if err != nil {
		return err
	}

	// What can fail without a key comes before a key service is asked.
	in, size, err := files.OpenInput(arguments)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := files.CreateOutput(ctx, o.out, o.replace)
	if err != nil {
		return err
	}
	defer out.Discard()
	toTerminal := out.Path == "" && term.IsTerminal(int(out.Fd()))
	if encrypting && toTerminal && !o.encode {
		return errors.New("refusing to write ciphertext to a terminal; use -o OUT, a pipe or --encode")
	}

	defer func() {
		if o.remote != nil {
			_ = o.remote.Close()
		}
		keys.CloseAll(ks)
	}()
	o.single = true
	if encrypting {
		if err := keys.OpenAll(ctx, ks); err != nil {
			return err
		}
	}
	host, err := o.host(encrypting, ks, encrypter, transformers...)
	if err != nil {
		return err
	}
	counted := &places.Counter{R: in}
	source := io.Reader(counted)
	if o.decode {
		source = newDecoder(source)
	}
	result, err := open(ctx, host, source)
	if err != nil {
		return err
	}
	var done func()
	if !toTerminal {
		done = console.ShowProgress(command.Name()+"ing", counted.N.Load, size)
	}
	written, err := o.copy(out, result)
	if done != nil {
		done()
	}
	if err != nil {
		if out.Path == "" {
			return incomplete(written, err)
		}
		return err
	}
	in.Close() // Windows does not replace an open file, and OUT may replace IN.
	return out.Commit(ctx)
}

// copy writes result to out, as base64 text with --encode.
func (o *options) copy(out *files.Output, result io.Reader) (written int64, err error) {
	// Without this, io.CopyBuffer would use out's ReadFrom, which copies in smaller pieces.
	dst := struct{ io.Writer }{out}
	buffer := make([]byte, 256<<10)
	if !o.encode {
		return io.CopyBuffer(dst, result, buffer)
	}
	encoder := base64.NewEncoder(base64.StdEncoding, dst)
	if written, err = io.CopyBuffer(encoder, result, buffer); err != nil {
		return written, err
	}
	if err := encoder.Close(); err != nil {
		return written, err
	}
	_, err = io.WriteString(dst, "\n")
	return written, err
}

// decoder decodes the base64 text of its source. It returns the source's own errors as they are.
type decoder struct {
	source *stickyReader
	text   io.Reader
}

func newDecoder(source io.Reader) *decoder {
	f := &stickyReader{r: source}
	return &decoder{f, base64.NewDecoder(base64.StdEncoding, f)}
}

func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.text.Read(p)
	_, corrupt := errors.AsType[base64.CorruptInputError](err)
	switch {
	case err == nil || err == io.EOF && d.source.err == nil:
		return n, err
	case d.source.err != nil:
		return n, d.source.err
	case corrupt || err == io.ErrUnexpectedEOF:
		return n, fmt.Errorf("--decode: IN is not whole base64 text: %w", err)
	}
	return n, err
}

// stickyReader remembers the first error of its reader.
type stickyReader struct {
	r   io.Reader
	err error // never io.EOF
}

func (f *stickyReader) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.r.Read(p)
	if err != io.EOF {
		f.err = err
	}
	return n, err
}

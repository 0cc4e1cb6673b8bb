package message

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"

	"piko.sh/pikokms/frame"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/memory"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/provider"
)

// A Decrypter decrypts messages. It must not be changed once in use, and is then safe for concurrent use.
type Decrypter struct {
	Keyrings []provider.Keyring // tried in order; each asks only about keys that it trusts
	Limits   header.Limits      // MaxFrameLength also bounds unframed messages, which are held in memory

	CommitmentPolicy CommitmentPolicy

	// Accept, if not nil, looks at each message's header before a key service is asked about it,
	// and before anything in it is authenticated. Its error refuses the message.
	Accept func(*header.Header) error

	// AllowPikoV2 lets NewReader read the streams that Piko wrote before pikokms, too, under keyrings that implement
	// provider.PikoV2Keyring. A stream that was cut between two of its chunks then reads as a shorter one, without an error:
	// package pikov2 says what else its format lacks. Set it only while such streams remain.
	AllowPikoV2 bool

	Parallelism int // goroutines that open a stream's frames, as Encrypter's
}

// NewReader reads a message's header from src, has its data key unwrapped, verifies the header, and returns the plaintext
// as a pull stream. Each pair of stated must be the message's: equal to the stored pair or, when the message does not store
// it, one that was required when it was encrypted. The key service is called here and not again; ctx also ends the stream.
// The plaintext is whole when Read returns io.EOF, and only then: a signature comes after it.
//
// The error holds provider.ErrInvalidCiphertext (the input is no message, cut short, or over a limit), ErrCommitmentPolicy,
// provider.ErrContextMismatch, provider.ErrUntrustedKey, provider.ErrDecryptionFailed (it was changed, or the key does not
// fit), or is the keyring's or src's own. Read's errors are the same.
func (d *Decrypter) NewReader(ctx context.Context, src io.Reader, stated map[string]string) (*DecryptReader, error) {
	r := &DecryptReader{source: sourceReader{contextReader: contextReader{ctx, src, memory.Of(src), nil}}}
	if pikov2.Sniff(r.source.peek(pikov2.SniffSize)) {
		return d.newPikoV2Reader(ctx, &r.source, stated)
	}
	h, err := header.Read(&r.source, d.Limits)
	if err == io.EOF {
		return nil, fmt.Errorf("%w: the input is empty", provider.ErrInvalidCiphertext)
	}
	if err != nil {
		return nil, classify(err)
	}
	c, all, err := d.start(ctx, h, stated)
	if err != nil {
		return nil, err
	}
	r.header, r.context, r.body = h, all, frame.NewOpenReader(&r.source, c)
	return r, nil
}

func (d *Decrypter) newPikoV2Reader(ctx context.Context, src io.Reader, stated map[string]string) (*DecryptReader, error) {
	if !d.AllowPikoV2 {
		return nil, fmt.Errorf("%w: %w: AllowPikoV2 lets it be read", provider.ErrInvalidCiphertext, ErrPikoV2)
	}
	if len(stated) > 0 {
		return nil, fmt.Errorf("%w: a stream that Piko wrote before pikokms has none", provider.ErrContextMismatch)
	}
	body, err := pikov2.NewReader(ctx, src, d.Keyrings)
	if err != nil {
		return nil, err
	}
	return &DecryptReader{body: body}, nil
}

// NewWriter returns a push stream: a message written to it goes to dst as plaintext, each frame once it is verified. The
// key service is called during the Write that completes the header. The plaintext is whole when Close returns nil, and
// only then. Streams that Piko wrote before pikokms are for NewReader. The rest is as in NewReader.
func (d *Decrypter) NewWriter(ctx context.Context, dst io.Writer, stated map[string]string) *DecryptWriter {
	return &DecryptWriter{decrypter: d, ctx: ctx, dst: &contextWriter{ctx, dst, nil}, stated: maps.Clone(stated), scanner: header.Scanner{Limits: d.Limits}}
}

// start checks a header that was read, and gives the cipher of its frames and the whole encryption context.
func (d *Decrypter) start(ctx context.Context, h *header.Header, stated map[string]string) (frame.Config, map[string]string, error) {
	v, err := d.verify(ctx, h, stated)
	if err != nil {
		return frame.Config{}, nil, err
	}
	defer v.dataKey.Close()
	c := frame.Config{AEAD: v.aead, MessageID: h.MessageID, Length: int(h.FrameLength), Parallelism: d.Parallelism}
	if v.count != nil {
		c.AEAD = counted{v.aead, v.count}
	}
	if h.ContentType == header.Unframed {
		c.Unframed = true
		if c.Length = d.Limits.MaxFrameLength; c.Length <= 0 {
			c.Length = header.MaxFrameLength
		}
	}
	if v.verifier != nil {
		_, _ = v.verifier.Write(h.Bytes()) // a hash.Hash never fails
		c.Digest, c.Footer = v.verifier, v.verifier.Verify
	}
	return c, v.all, nil
}

// DecryptReader reads as a message's plaintext. It is for one goroutine.
type DecryptReader struct {
	source  sourceReader
	header  *header.Header
	context map[string]string
	body    interface { // a *frame.OpenReader or *pikov2.Reader
		io.Reader
		io.WriterTo
	}
	closed bool
}

// Header returns the message's verified header, or nil for a stream that Piko wrote before pikokms.
func (r *DecryptReader) Header() *header.Header { return r.header }

// EncryptionContext returns the message's verified encryption context, with the required pairs that it does not store. The
// caller must not change it.
func (r *DecryptReader) EncryptionContext() map[string]string { return r.context }

// Read implements io.Reader.
func (r *DecryptReader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, frame.ErrClosed
	}
	n, err := r.body.Read(p)
	return n, classify(err)
}

// WriteTo implements io.WriterTo, without a copy.
func (r *DecryptReader) WriteTo(w io.Writer) (int64, error) {
	if r.closed {
		return 0, frame.ErrClosed
	}
	n, err := r.body.WriteTo(w)
	return n, classify(err)
}

// Close implements io.Closer. It does not close the source, and a reader that is dropped without it leaves nothing behind.
func (r *DecryptReader) Close() error {
	r.closed = true
	return nil
}

// DecryptWriter decrypts the message that is written to it. It is for one goroutine.
type DecryptWriter struct {
	decrypter *Decrypter
	ctx       context.Context
	dst       io.Writer
	stated    map[string]string

	scanner header.Scanner
	start   []byte         // the header so far
	header  *header.Header // once verified
	body    *frame.OpenWriter
	err     error
}

// Header returns the message's verified header, or nil while it is not complete.
func (w *DecryptWriter) Header() *header.Header { return w.header }

// Write implements io.Writer.
func (w *DecryptWriter) Write(p []byte) (n int, err error) {
	if w.err != nil {
		return 0, w.err
	}
	for w.body == nil && n < len(p) {
		need, done, err := w.scanner.Scan(w.start)
		if err == nil && !done {
			m := min(need-len(w.start), len(p)-n)
			w.start = append(w.start, p[n:n+m]...)
			n += m
			_, done, err = w.scanner.Scan(w.start)
		}
		if err == nil && done {
			err = w.open()
		}
		if err != nil {
			w.err = classify(err)
			return n, w.err
		}
	}
	if n == len(p) {
		return n, nil
	}
	m, err := w.body.Write(p[n:])
	w.err = classify(err)
	return n + m, w.err
}

// ReadFrom implements io.ReaderFrom: it reads the frames to where they are opened, without a copy.
func (w *DecryptWriter) ReadFrom(src io.Reader) (total int64, err error) {
	source := bufio.NewReaderSize(src, header.SniffSize) // which gives up on a source that gives nothing
	for w.err == nil && w.body == nil {
		need, _, err := w.scanner.Scan(w.start)
		if err != nil {
			w.err = classify(err)
			break
		}
		piece := make([]byte, max(1, need-len(w.start)))
		n, readErr := io.ReadAtLeast(source, piece, 1)
		total += int64(n)
		if _, err := w.Write(piece[:n]); err != nil {
			return total, err
		}
		if readErr == io.EOF {
			return total, nil
		}
		if readErr != nil {
			return total, readErr
		}
	}
	if w.err != nil {
		return total, w.err
	}
	n, err := w.body.ReadFrom(source)
	w.err = classify(err)
	return total + n, w.err
}

func (w *DecryptWriter) open() error {
	h, _, err := header.Parse(w.start, w.decrypter.Limits)
	if err != nil {
		return err
	}
	c, _, err := w.decrypter.start(w.ctx, h, w.stated)
	if err != nil {
		return err
	}
	w.header, w.start = h, nil
	w.body = frame.NewOpenWriter(w.dst, c)
	return nil
}

// Close releases the last plaintext and reports whether the message was whole. It does not close the destination.
func (w *DecryptWriter) Close() error {
	if w.err != nil {
		return w.err
	}
	if w.body == nil {
		_, _, err := header.Parse(w.start, w.decrypter.Limits)
		if err == io.EOF {
			err = fmt.Errorf("%w: the input is empty", provider.ErrInvalidCiphertext)
		}
		w.err = classify(err)
		return w.err
	}
	w.err = classify(w.body.Close())
	return w.err
}

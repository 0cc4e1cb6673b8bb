package message

import (
	"context"
	"fmt"
	"io"
	"maps"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/provider"
)

// Decrypter decrypts messages. It is safe for concurrent use, but its fields must not change once
// it is in use.
type Decrypter struct {
	// Keyrings are asked in order, each about every data key of a message, until one returns a data
	// key under which the message's header verifies. A keyring asks its key service only about
	// wrapping keys that it trusts. Limits.MaxAttempts bounds how often keyrings are asked.
	Keyrings []provider.Unwrapper

	// Limits bound the size of a header and its parts. MaxFrameLength also bounds unframed
	// messages, which are held in memory.
	Limits header.Limits

	CommitmentPolicy CommitmentPolicy

	// Accept, if not nil, is called with each message's header before any key service is asked
	// about it. Nothing in the header is authenticated by then. An error of Accept refuses the
	// message.
	Accept func(*header.Header) error

	// AllowPikoV2 makes NewReader also read the streams that Piko wrote before it used pikokms. The
	// keyring must implement provider.PikoV2Keyring. Such a stream that was cut between two of its
	// chunks reads as a shorter one, without an error; package pikov2 lists what else the format
	// lacks. Set it only while such streams remain.
	AllowPikoV2 bool

	// Parallelism is the most goroutines that open a stream's frames, as in Encrypter.
	Parallelism int
}

// ReadHeader reads the header of the message that r holds, and no more. It asks no key service, so
// nothing in the header is authenticated. The error holds provider.ErrInvalidCiphertext if r does
// not begin with a whole header within the limits. Otherwise it is r's own.
func ReadHeader(r io.Reader, limits header.Limits) (*header.Header, error) {
	h, err := header.Read(r, limits)
	if err == io.EOF {
		return nil, errEmpty
	}
	return h, classify(err)
}

// NewReader decrypts the message that src holds, as a pull stream. It reads the header, asks the
// keyrings for the data key and verifies the header; after that no key service is asked. When ctx
// ends, reading fails. The plaintext is complete when Read returns io.EOF, and only then: a
// signature comes last.
//
// Every pair of stated must be a pair of the message. If the message stores a pair of that key, the
// two must be equal. Otherwise it must be a required pair, which the writer authenticated but did
// not store.
//
// The error holds provider.ErrInvalidCiphertext if src is no message, is cut short or exceeds a
// limit; for a limit it also holds a [header.LimitError]. It holds ErrCommitmentPolicy,
// provider.ErrContextMismatch, provider.ErrUntrustedKey, or provider.ErrDecryptionFailed if the
// message was changed or no key fits. Otherwise it is the keyring's or src's own. Read returns the
// same errors.
func (d *Decrypter) NewReader(ctx context.Context, src io.Reader, stated map[string]string) (*DecryptReader, error) {
	r := &DecryptReader{source: messageSource{source: newSource(ctx, src, nil)}}
	if pikov2.Sniff(r.source.peek(pikov2.SniffSize)) {
		return d.newPikoV2Reader(ctx, &r.source, stated)
	}
	h, err := ReadHeader(&r.source, d.Limits)
	if err != nil {
		return nil, err
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

// NewWriter returns a push stream, which is for one goroutine. A message that is written to it goes
// to dst as plaintext, each frame once it is verified. The Write that completes the header asks the
// key service. Close writes the last frame's plaintext, and does not close dst. The plaintext is
// complete when Close returns nil, and only then.
//
// The stream also is an [io.ReaderFrom]. If the source of its ReadFrom fails, Close fails, too.
// After an error all further calls fail. NewWriter does not read Piko's streams. Stated pairs and
// errors are those of NewReader.
func (d *Decrypter) NewWriter(ctx context.Context, dst io.Writer, stated map[string]string) io.WriteCloser {
	return &decryptWriter{
		decrypter: d, ctx: ctx, dst: destination{ctx, dst, nil}, stated: maps.Clone(stated),
		scanner: header.Scanner{Limits: d.Limits}, start: make([]byte, 0, 512), // enough for most headers
	}
}

// start checks a header that was read. It returns the cipher of the message's frames and the whole
// encryption context.
func (d *Decrypter) start(ctx context.Context, h *header.Header, stated map[string]string) (frame.Config, map[string]string, error) {
	v, err := d.verify(ctx, h, stated)
	if err != nil {
		return frame.Config{}, nil, err
	}
	c := frame.Config{AEAD: v.aead, MessageID: h.MessageID, Length: int(h.FrameLength), Parallelism: d.Parallelism}
	if v.count != nil {
		c.AEAD = counted{v.aead, v.count}
	}
	if h.ContentType == header.Unframed {
		c.Unframed, c.Length = true, d.Limits.WithDefaults().MaxFrameLength
	}
	if v.verifier != nil {
		_, _ = v.verifier.Write(h.Bytes()) // never fails
		c.Digest, c.Footer = v.verifier, v.verifier.Verify
	}
	return c, v.all, nil
}

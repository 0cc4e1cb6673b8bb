package message

import (
	"context"
	"fmt"
	"io"
	"maps"

	"piko.sh/pikokms/frame"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/provider"
)

// A Decrypter decrypts messages. It must not be changed once in use, and is then safe for
// concurrent use.
type Decrypter struct {
	// Keyrings are asked in order, each about every data key of a message, until a data key fits:
	// the message's header verifies under it. Each keyring asks its key service only about
	// wrapping keys that it trusts. Limits.MaxAttempts bounds how often they are asked.
	Keyrings []provider.Keyring

	// Limits bound what is taken from a header. MaxFrameLength also bounds unframed messages,
	// which are held in memory.
	Limits header.Limits

	CommitmentPolicy CommitmentPolicy

	// Accept, if not nil, looks at each message's header before a key service is asked about it,
	// and before anything in it is authenticated. Its error refuses the message.
	Accept func(*header.Header) error

	// AllowPikoV2 lets NewReader read the streams that Piko wrote before pikokms, too, under
	// keyrings that implement provider.PikoV2Keyring. A stream that was cut between two of its
	// chunks then reads as a shorter one, without an error: package pikov2 says what else its
	// format lacks. Set it only while such streams remain.
	AllowPikoV2 bool

	Parallelism int // goroutines that open a stream's frames, as Encrypter's
}

// NewReader reads a message's header from src, has its data key unwrapped, verifies the header,
// and returns the plaintext as a pull stream. Each pair of stated must be the message's: equal to
// the stored pair or, when the message does not store it, one that was required when it was
// encrypted. The key service is called here and not again; ctx also ends the stream. The plaintext
// is whole when Read returns io.EOF, and only then: a signature comes after it.
//
// The error holds provider.ErrInvalidCiphertext (the input is no message, cut short, or over a
// limit: then also a [header.LimitError]), ErrCommitmentPolicy, provider.ErrContextMismatch,
// provider.ErrUntrustedKey, provider.ErrDecryptionFailed (it was changed, or no key fits), or is
// the keyring's or src's own. Read's errors are the same.
func (d *Decrypter) NewReader(ctx context.Context, src io.Reader, stated map[string]string) (*DecryptReader, error) {
	r := &DecryptReader{source: messageSource{source: newSource(ctx, src, nil)}}
	if pikov2.Sniff(r.source.peek(pikov2.SniffSize)) {
		return d.newPikoV2Reader(ctx, &r.source, stated)
	}
	h, err := header.Read(&r.source, d.Limits)
	if err == io.EOF {
		return nil, errEmpty
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

// NewWriter returns a push stream: a message written to it goes to dst as plaintext, each frame
// once it is verified. The key service is called during the Write that completes the header. The
// plaintext is whole when Close returns nil, and only then. Streams that Piko wrote before pikokms
// are for NewReader. The rest is as in NewReader.
func (d *Decrypter) NewWriter(ctx context.Context, dst io.Writer, stated map[string]string) *DecryptWriter {
	return &DecryptWriter{
		decrypter: d, ctx: ctx, dst: destination{ctx, dst, nil}, stated: maps.Clone(stated),
		scanner: header.Scanner{Limits: d.Limits}, start: make([]byte, 0, 512), // enough for most
	}
}

// start checks a header that was read, and gives the cipher of its frames and the whole encryption
// context.
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

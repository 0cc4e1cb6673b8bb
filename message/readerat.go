package message

import (
	"context"
	"fmt"
	"io"

	"piko.sh/pikokms/frame"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// DecryptReaderAt is random access to a message's plaintext: an io.ReadSeeker for one goroutine, for http.ServeContent and the like,
// and an io.ReaderAt for any number of them; an io.NewSectionReader over it is a further io.ReadSeeker. Its Size is the number of bytes of plaintext, which the final frame vouches for.
type DecryptReaderAt struct {
	*io.SectionReader
	header  *header.Header
	context map[string]string
}

// Open reads the header of the message of size bytes that src holds, has its data key unwrapped, verifies the header and the
// final frame, and returns random access to the plaintext. The key service is called here and not again; ctx also ends the
// reads. A range costs the reading of the frames that it touches, of which a few are kept for reads in a row.
//
// Each frame is verified when it is read, at its place; what a range does not touch is not looked at.
//
// A signed message is refused with header.ErrUnsupported, since its signature is over the whole, and so is an unframed one: read
// them with NewReader. The other errors, and those of ReadAt, are NewReader's.
func (d *Decrypter) Open(ctx context.Context, src io.ReaderAt, size int64, stated map[string]string) (*DecryptReaderAt, error) {
	source := &contextReaderAt{ctx, src}
	h, err := header.Read(io.NewSectionReader(source, 0, size), d.Limits)
	if err == io.EOF {
		return nil, fmt.Errorf("%w: the input is empty", provider.ErrInvalidCiphertext)
	}
	if err != nil {
		return nil, classify(err)
	}
	if h.Suite.Signed() || h.ContentType != header.Framed {
		return nil, classify(fmt.Errorf("%w: a signed or an unframed message can only be read from its beginning to its end", header.ErrUnsupported))
	}
	c, all, err := d.start(ctx, h, stated)
	if err != nil {
		return nil, err
	}
	start := int64(h.Size())
	body, err := frame.NewReaderAt(source, start, size-start, c)
	if err != nil {
		return nil, classify(err)
	}
	return &DecryptReaderAt{io.NewSectionReader(classified{body}, 0, body.Size()), h, all}, nil
}

// Header returns the message's verified header.
func (r *DecryptReaderAt) Header() *header.Header { return r.header }

// EncryptionContext is DecryptReader's.
func (r *DecryptReaderAt) EncryptionContext() map[string]string { return r.context }

// classified gives a body's errors the sentinels of this package.
type classified struct{ body *frame.ReaderAt }

func (c classified) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.body.ReadAt(p, off)
	return n, classify(err)
}

// contextReaderAt ends reads with their context.
type contextReaderAt struct {
	ctx context.Context
	r   io.ReaderAt
}

func (r *contextReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.ReadAt(p, off)
}

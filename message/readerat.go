package message

import (
	"context"
	"fmt"
	"io"

	"piko.sh/pikokms/frame"
	"piko.sh/pikokms/header"
)

// DecryptReaderAt is random access to a message's plaintext. Its Read and Seek are for one
// goroutine, for http.ServeContent and the like, its ReadAt for any number of them. An
// io.NewSectionReader over it is a further io.ReadSeeker.
type DecryptReaderAt struct {
	section *io.SectionReader
	header  *header.Header
	context map[string]string
}

// Open reads the header of the message of size bytes that src holds, has its data key unwrapped,
// verifies the header and the final frame, and returns random access to the plaintext. The key
// service is called here and not again; ctx also ends the reads. A range costs the reading of the
// frames that it touches, of which a few are kept for reads in a row.
//
// Each frame is verified when it is read, at its place; what a range does not touch is not looked
// at.
//
// A signed message is refused with header.ErrUnsupported, since its signature is over the whole,
// and so is an unframed one: read them with NewReader. The other errors, and those of ReadAt, are
// NewReader's.
func (d *Decrypter) Open(ctx context.Context, src io.ReaderAt, size int64, stated map[string]string) (*DecryptReaderAt, error) {
	source := &sourceAt{ctx, src}
	h, err := header.Read(io.NewSectionReader(source, 0, size), d.Limits)
	if err == io.EOF {
		return nil, errEmpty
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

// EncryptionContext returns the message's verified encryption context, as DecryptReader's does.
func (r *DecryptReaderAt) EncryptionContext() map[string]string { return r.context }

// Size returns the number of bytes of plaintext, for which the final frame vouches.
func (r *DecryptReaderAt) Size() int64 { return r.section.Size() }

// ReadAt implements io.ReaderAt.
func (r *DecryptReaderAt) ReadAt(p []byte, off int64) (int, error) { return r.section.ReadAt(p, off) }

// Read implements io.Reader.
func (r *DecryptReaderAt) Read(p []byte) (int, error) { return r.section.Read(p) }

// Seek implements io.Seeker.
func (r *DecryptReaderAt) Seek(offset int64, whence int) (int64, error) {
	return r.section.Seek(offset, whence)
}

// classified gives a body's errors the sentinels of this package.
type classified struct{ body *frame.ReaderAt }

func (c classified) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.body.ReadAt(p, off)
	return n, classify(err)
}

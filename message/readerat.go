package message

import (
	"context"
	"fmt"
	"io"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/frame"
)

// DecryptReaderAt gives random access to a message's plaintext, whose size the verified final frame
// proves. Read and Seek are for one goroutine, such as http.ServeContent. ReadAt is safe for
// concurrent use. For a further io.ReadSeeker, make another io.SectionReader of it.
type DecryptReaderAt struct {
	*io.SectionReader
	header  *header.Header
	context map[string]string
}

// Open gives random access to the plaintext of the message of size bytes that src holds. It reads
// the header, asks the keyrings for the data key, and verifies the header and the final frame;
// after that no key service is asked. When ctx ends, reads fail. A read costs the frames that it
// touches. A few of them are kept for reads in a row.
//
// Each frame is verified when it is read. Frames that no read touches are not looked at.
//
// Open refuses signed messages with header.ErrUnsupported, since the signature is over the whole
// message. It refuses unframed ones in the same way. Read both with NewReader. The other errors,
// and those of ReadAt, are NewReader's.
func (d *Decrypter) Open(ctx context.Context, src io.ReaderAt, size int64, stated map[string]string) (*DecryptReaderAt, error) {
	source := &sourceAt{ctx, src}
	h, err := ReadHeader(io.NewSectionReader(source, 0, size), d.Limits)
	if err != nil {
		return nil, err
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

// EncryptionContext returns the message's verified encryption context, including required pairs
// that it does not store. The caller must not change it.
func (r *DecryptReaderAt) EncryptionContext() map[string]string { return r.context }

// classified wraps a body's errors with the sentinels of package provider.
type classified struct{ body *frame.ReaderAt }

func (c classified) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.body.ReadAt(p, off)
	return n, classify(err)
}

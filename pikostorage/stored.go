package pikostorage

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/transfer"
)

// transformersKey is an encryption context key of every object that this package writes. Its value
// is a JSON list of the transformers of Piko's own pipeline that made the content. Usually it is
// empty.
//
// Piko keeps that list under the same key in an object's metadata. Whoever can write to the storage
// can change those. So this package gives Piko the authenticated list instead. The pair also
// distinguishes the object from one of Piko's own encryption, which may be a message under the same
// key.
const transformersKey = "x-piko-transformers"

const noTransformers = "[]"

// objectName returns the name of an object for the host. The repository is escaped, so its end is
// certain.
func objectName(repository, key string) string { return url.PathEscape(repository) + "/" + key }

// paramsFor returns parameters that name an object, without those that the inner provider must not
// see.
func paramsFor(repository, key string) storage.GetParams {
	return storage.GetParams{Repository: repository, Key: key}
}

// stored is an object of the inner provider, open for random access.
type stored struct {
	*transfer.RangeObject
	info   *storage.ObjectInfo
	header *header.Header // nil if the object is no message
}

// open opens an object with two requests, for its size and for its first bytes. Reads beyond them
// make more. If the object is replaced meanwhile, they fail, since frames of another object fail
// authentication.
func (e *encrypted) open(ctx context.Context, repository, key string) (*stored, error) {
	info, err := e.inner.Stat(ctx, paramsFor(repository, key))
	if err != nil {
		return nil, err
	}
	return e.openAs(ctx, repository, key, info)
}

// openAs does what open does, for an object whose size is known.
func (e *encrypted) openAs(ctx context.Context, repository, key string, info *storage.ObjectInfo) (_ *stored, err error) {
	fetch := func(offset, length int64) (io.ReadCloser, error) {
		params := paramsFor(repository, key)
		params.ByteRange = &storage.ByteRange{Start: offset, End: offset + length - 1}
		return e.inner.Get(ctx, params)
	}
	start := make([]byte, min(info.Size, transfer.ProbeSize))
	if len(start) > 0 { // S3 refuses every range of an empty object
		r, err := fetch(0, int64(len(start)))
		if err != nil {
			return nil, err
		}
		_, err = io.ReadFull(r, start)
		if err := errors.Join(err, r.Close()); err != nil {
			return nil, fmt.Errorf("its first bytes: %w", err)
		}
	}
	s := &stored{RangeObject: transfer.NewRangeObject(info.Size, info.LastModified, start, fetch), info: info}
	if s.header, err = e.readHeader(io.NewSectionReader(s, 0, info.Size)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if s.header != nil && len(s.header.Bytes()) > len(start) {
		// Whoever decrypts the object must verify this header, and not one of a later fetch.
		if err := s.Close(); err != nil {
			return nil, err
		}
		s.RangeObject = transfer.NewRangeObject(info.Size, info.LastModified, s.header.Bytes(), fetch)
	}
	return s, nil
}

// readHeader reads the header of a message. It returns nil if there is no message or a damaged one;
// the host then reports what is wrong.
func (e *encrypted) readHeader(r io.Reader) (*header.Header, error) {
	h, err := e.host.ReadHeader(r)
	if errors.Is(err, provider.ErrInvalidCiphertext) {
		return nil, nil
	}
	return h, err
}

// sniff reads the header of a stream, as readHeader does, and also returns the whole stream.
func (e *encrypted) sniff(r io.Reader) (*header.Header, io.Reader, error) {
	var start bytes.Buffer
	rest := bufio.NewReaderSize(r, transfer.ProbeSize)
	h, err := e.readHeader(io.TeeReader(rest, &start))
	return h, io.MultiReader(&start, rest), err
}

// recorder keeps what is read from it until stop is called.
type recorder struct {
	io.Reader
	start   bytes.Buffer
	stopped bool
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if !r.stopped {
		r.start.Write(p[:n])
	}
	return n, err
}

func (r *recorder) stop() { r.stopped, r.start = true, bytes.Buffer{} }

// recordedHeader stops the recording, and returns the header of the message that was decrypted from
// r to content. It is parsed again only if content does not have it. It is nil if r is no message.
func (e *encrypted) recordedHeader(r *recorder, content io.Reader) *header.Header {
	defer r.stop()
	if m, ok := content.(*message.DecryptReader); ok {
		return m.Header()
	}
	h, _ := e.readHeader(&r.start)
	return h
}

// isOurs reports whether this package wrote an object with this header.
func isOurs(h *header.Header) bool {
	if h == nil {
		return false
	}
	_, marked := h.EncryptionContext[transformersKey]
	return marked
}

// namesIn returns the list of Piko's transformers in a header.
func namesIn(h *header.Header) string {
	if !isOurs(h) {
		return noTransformers
	}
	return h.EncryptionContext[transformersKey]
}

// isPassed reports whether a stored object is passed as it is to Piko's own transformers, which
// made it before this package was used. The error holds pikokms.ErrPlaintext if such objects are
// not allowed.
func (e *encrypted) isPassed(h *header.Header, metadata map[string]string) (bool, error) {
	if isOurs(h) || metadata[transformersKey] == "" {
		return false, nil
	}
	if !e.host.AllowsPlaintext() {
		return false, fmt.Errorf("%w here: its metadata say that Piko's transformers %s made it; "+
			"pikokms.AllowPlaintext lets it be read", pikokms.ErrPlaintext, metadata[transformersKey])
	}
	return true, nil
}

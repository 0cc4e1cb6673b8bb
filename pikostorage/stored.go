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
)

// TransformersKey is the encryption context key of every object that is written here. Its value
// names the transformers of Piko's own pipeline that made the content, as a JSON list that is
// mostly empty.
//
// Piko keeps that list under the same key in an object's metadata, where whoever can write to the
// storage can change it. Piko gets the authenticated one instead. That the pair is there tells the
// object from one that Piko's own encryption made, which may be a message under the same key.
const TransformersKey = "x-piko-transformers"

const noTransformers = "[]"

// name returns the name by which the host knows an object. The repository is escaped, so that its
// end is certain.
func name(repository, key string) string { return url.PathEscape(repository) + "/" + key }

// at returns the parameters of an object's operations, without what is not for the inner provider.
func at(repository, key string) storage.GetParams {
	return storage.GetParams{Repository: repository, Key: key}
}

// probe is how many bytes of an object are fetched first, in bytes: more than most headers have.
const probe = 4 << 10

// stored is an object of the inner provider, open for random access.
type stored struct {
	*pikokms.RangeReaderAt
	info   *storage.ObjectInfo
	header *header.Header // nil if it is no message
}

// open opens an object with two requests, for its size and for its first bytes. Reads of more make
// more. Where the object is replaced meanwhile they fail, since no frame of another object fits.
func (e *encrypted) open(ctx context.Context, repository, key string) (*stored, error) {
	info, err := e.inner.Stat(ctx, at(repository, key))
	if err != nil {
		return nil, err
	}
	fetch := func(offset, length int64) (io.ReadCloser, error) {
		params := at(repository, key)
		params.ByteRange = &storage.ByteRange{Start: offset, End: offset + length - 1}
		return e.inner.Get(ctx, params)
	}
	start := make([]byte, min(info.Size, probe))
	if len(start) > 0 { // an empty range is an error in S3
		r, err := fetch(0, int64(len(start)))
		if err != nil {
			return nil, err
		}
		_, err = io.ReadFull(r, start)
		if err := errors.Join(err, r.Close()); err != nil {
			return nil, fmt.Errorf("its first bytes: %w", err)
		}
	}
	s := &stored{RangeReaderAt: pikokms.NewRangeReaderAt(info.Size, start, fetch), info: info}
	if s.header, err = readHeader(io.NewSectionReader(s, 0, info.Size)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// readHeader reads the header of a message. It returns nil for what is no message, or a damaged
// one: that is for the host to say.
func readHeader(r io.Reader) (*header.Header, error) {
	h, err := header.Read(r, header.Limits{})
	if err == io.EOF {
		return nil, nil
	}
	for _, ofContent := range []error{header.ErrNotMessage, header.ErrMalformed, header.ErrUnsupported, header.ErrLimit} {
		if errors.Is(err, ofContent) {
			return nil, nil
		}
	}
	return h, err
}

// sniff is readHeader of a stream. It also returns the whole of the stream.
func sniff(r io.Reader) (*header.Header, io.Reader, error) {
	var start bytes.Buffer
	rest := bufio.NewReaderSize(r, probe)
	h, err := readHeader(io.TeeReader(rest, &start))
	return h, io.MultiReader(&start, rest), err
}

// ours tells whether an object with this header was written here.
func ours(h *header.Header) bool {
	if h == nil {
		return false
	}
	_, marked := h.EncryptionContext[TransformersKey]
	return marked
}

// passed tells whether a stored object goes to Piko's own transformers as it is, which made it
// before there was encryption here. The error holds pikokms.ErrPlaintext where such are not read.
func (e *encrypted) passed(h *header.Header, metadata map[string]string) (bool, error) {
	if ours(h) || metadata[TransformersKey] == "" {
		return false, nil
	}
	if !e.host.AllowsPlaintext() {
		return false, fmt.Errorf("%w here: its metadata say that Piko's transformers %s made it; "+
			"pikokms.AllowPlaintext lets it be read", pikokms.ErrPlaintext, metadata[TransformersKey])
	}
	return true, nil
}

package pikostorage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
)

// object is the original of a stored object.
type object struct {
	io.Reader
	close func() error
}

func newObject(content io.Reader, stored io.Closer) *object {
	return &object{content, sync.OnceValue(stored.Close)}
}

// Close closes the stored object. A second Close returns the first one's result.
func (o *object) Close() error { return o.close() }

// WriteTo implements io.WriterTo, so that io.Copy uses the WriteTo of decryption.
func (o *object) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, o.Reader) }

// Get implements storage.ProviderPort. The content is complete when Read returns io.EOF, and only
// then. When ctx ends, reading fails. The errors are those of pikokms.Host.Get and of the inner
// provider, or hold ErrReplaced.
func (e *encrypted) Get(ctx context.Context, params storage.GetParams) (io.ReadCloser, error) {
	o, err := e.get(ctx, params)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", params.Key, err)
	}
	return o, nil
}

func (e *encrypted) get(ctx context.Context, params storage.GetParams) (io.ReadCloser, error) {
	open := e.openWhole
	if params.ByteRange != nil {
		open = e.openRange
	}
	o, names, err := open(ctx, params)
	if err != nil || names == "" {
		return o, err
	}
	if reported := e.seen.names(objectName(params.Repository, params.Key)); reported != names {
		err := fmt.Errorf("%w: its transformers are %s, and were %s when they were looked up", ErrReplaced, names, reported)
		return nil, errors.Join(err, o.Close())
	}
	if names == noTransformers && namesCrypto(params.TransformConfig) {
		return e.encryptForPiko(ctx, o)
	}
	return o, nil
}

// openWhole returns the original of an object, and the verified list of Piko's transformers that
// made it. The list is empty if the object is passed to those as it is.
func (e *encrypted) openWhole(ctx context.Context, params storage.GetParams) (o io.ReadCloser, names string, err error) {
	stored, err := e.inner.Get(ctx, paramsFor(params.Repository, params.Key))
	if err != nil {
		return nil, "", err
	}
	content, names, err := e.decrypt(ctx, params.Repository, params.Key, stored)
	if err != nil {
		return nil, "", errors.Join(err, stored.Close())
	}
	return newObject(content, stored), names, nil
}

// decrypt does what openWhole does, for an object that is open.
func (e *encrypted) decrypt(ctx context.Context, repository, key string, stored io.Reader) (io.Reader, string, error) {
	if e.host.AllowsPlaintext() {
		h, whole, err := e.sniff(stored)
		if err != nil {
			return nil, "", err
		}
		if passed, err := e.isPassedUnlessOurs(ctx, h, repository, key); passed || err != nil {
			return whole, "", err
		}
		stored = whole
	}
	recorded := &recorder{Reader: stored}
	content, _, err := e.host.DecryptObject(ctx, objectName(repository, key), recorded, -1, nil)
	h := e.recordedHeader(recorded, content)
	if _, refused := e.isPassedUnlessOurs(ctx, h, repository, key); refused != nil {
		return nil, "", refused
	}
	return content, namesIn(h), err
}

// isPassedUnlessOurs does what isPassed does, for an object whose metadata are not known. It asks
// for them only if another program wrote the object.
func (e *encrypted) isPassedUnlessOurs(ctx context.Context, h *header.Header, repository, key string) (bool, error) {
	if isOurs(h) {
		return false, nil
	}
	info, err := e.inner.Stat(ctx, paramsFor(repository, key))
	if err != nil {
		return false, err
	}
	return e.isPassed(h, info.Metadata)
}

// openRange does what openWhole does, for a range of the object. The range is empty if it begins at
// the object's end or after it.
func (e *encrypted) openRange(ctx context.Context, params storage.GetParams) (io.ReadCloser, string, error) {
	s, err := e.open(ctx, params.Repository, params.Key)
	if err != nil {
		return nil, "", err
	}
	o, names, err := e.rangeOf(ctx, params, s)
	if err != nil {
		return nil, "", errors.Join(err, s.Close())
	}
	return o, names, nil
}

// rangeOf returns a range of an open object. It closes the object if it has to read the range in
// another way.
func (e *encrypted) rangeOf(ctx context.Context, params storage.GetParams, s *stored) (io.ReadCloser, string, error) {
	passed, err := e.isPassed(s.header, s.info.Metadata)
	if err != nil {
		return nil, "", err
	}
	if passed {
		if err := s.Close(); err != nil {
			return nil, "", err
		}
		params.TransformConfig = nil
		o, err := e.inner.Get(ctx, params)
		return o, "", err
	}
	first, last := params.ByteRange.Start, params.ByteRange.End
	if first < 0 || last >= 0 && last < first {
		return nil, "", fmt.Errorf("there is no range from byte %d to byte %d", first, last)
	}
	content, err := e.host.OpenObject(ctx, objectName(params.Repository, params.Key), s, nil)
	if errors.Is(err, pikokms.ErrNotSeekable) && !isSigned(s.header) {
		if err := s.Close(); err != nil {
			return nil, "", err
		}
		return e.skipTo(ctx, params)
	}
	if err != nil {
		return nil, "", err
	}
	end := content.Size()
	if last >= 0 && last < end-1 {
		end = last + 1
	}
	first = min(first, end)
	s.Expect(end - first)
	return newObject(io.NewSectionReader(content, first, end-first), s), namesIn(s.header), nil
}

// isSigned reports whether a message has a signature. It is verified only at the message's end, so
// no part of the message can be returned alone.
func isSigned(h *header.Header) bool { return h != nil && h.Suite.Signed() }

// skipTo returns a range of an object that can only be read from its beginning.
func (e *encrypted) skipTo(ctx context.Context, params storage.GetParams) (io.ReadCloser, string, error) {
	o, names, err := e.openWhole(ctx, params)
	if err != nil {
		return nil, "", err
	}
	first, last := params.ByteRange.Start, params.ByteRange.End
	if _, err := io.CopyN(io.Discard, o, first); err != nil && err != io.EOF {
		return nil, "", errors.Join(err, o.Close())
	}
	if last < 0 || last-first == math.MaxInt64 {
		return o, names, nil
	}
	return newObject(io.LimitReader(o, last-first+1), o), names, nil
}

package pikostorage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"sync"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
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
// provider.
func (e *encrypted) Get(ctx context.Context, params storage.GetParams) (io.ReadCloser, error) {
	open := e.whole
	if params.ByteRange != nil {
		open = e.part
	}
	o, err := open(ctx, params)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", params.Key, err)
	}
	return o, nil
}

func (e *encrypted) whole(ctx context.Context, params storage.GetParams) (io.ReadCloser, error) {
	stored, err := e.inner.Get(ctx, at(params.Repository, params.Key))
	if err != nil {
		return nil, err
	}
	content, err := e.decrypt(ctx, params.Repository, params.Key, stored)
	if err != nil {
		return nil, errors.Join(err, stored.Close())
	}
	return newObject(content, stored), nil
}

// decrypt returns the original of an object. An object for Piko's own transformers it returns as it
// is.
func (e *encrypted) decrypt(ctx context.Context, repository, key string, stored io.Reader) (io.Reader, error) {
	h, whole, err := sniff(stored)
	if err != nil {
		return nil, err
	}
	if !ours(h) {
		info, err := e.inner.Stat(ctx, at(repository, key))
		if err != nil {
			return nil, err
		}
		if passed, err := e.passed(h, info.Metadata); passed || err != nil {
			return whole, err
		}
	}
	content, _, err := e.host.DecryptObject(ctx, name(repository, key), whole, -1)
	return content, err
}

// part returns a range of an object. It is empty if it begins at the object's end or after it.
func (e *encrypted) part(ctx context.Context, params storage.GetParams) (io.ReadCloser, error) {
	s, err := e.open(ctx, params.Repository, params.Key)
	if err != nil {
		return nil, err
	}
	o, err := e.partOf(ctx, params, s)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return o, nil
}

// partOf returns a range of an open object. It closes the object if it has to read the range in
// another way.
func (e *encrypted) partOf(ctx context.Context, params storage.GetParams, s *stored) (io.ReadCloser, error) {
	passed, err := e.passed(s.header, s.info.Metadata)
	if err != nil {
		return nil, err
	}
	if passed {
		if err := s.Close(); err != nil {
			return nil, err
		}
		params.TransformConfig = nil
		return e.inner.Get(ctx, params)
	}
	first, last := params.ByteRange.Start, params.ByteRange.End
	if first < 0 || last >= 0 && last < first {
		return nil, fmt.Errorf("there is no range from byte %d to byte %d", first, last)
	}
	content, err := e.host.OpenObject(ctx, name(params.Repository, params.Key), s)
	if errors.Is(err, pikokms.ErrNotSeekable) && !signed(s.header) {
		if err := s.Close(); err != nil {
			return nil, err
		}
		return e.skipTo(ctx, params)
	}
	if err != nil {
		return nil, err
	}
	end := content.Size()
	if last >= 0 && last < end-1 {
		end = last + 1
	}
	first = min(first, end)
	s.Expect(end - first)
	return newObject(io.NewSectionReader(content, first, end-first), s), nil
}

// signed reports whether a message has a signature. It is verified only at the message's end, so no
// part of the message can be returned alone.
func signed(h *header.Header) bool { return h != nil && h.Suite.Signed() }

// skipTo returns a range of an object that can only be read from its beginning.
func (e *encrypted) skipTo(ctx context.Context, params storage.GetParams) (io.ReadCloser, error) {
	o, err := e.whole(ctx, params)
	if err != nil {
		return nil, err
	}
	first, last := params.ByteRange.Start, params.ByteRange.End
	if _, err := io.CopyN(io.Discard, o, first); err != nil && err != io.EOF {
		return nil, errors.Join(err, o.Close())
	}
	if last < 0 || last-first == math.MaxInt64 {
		return o, nil
	}
	return newObject(io.LimitReader(o, last-first+1), o), nil
}

// Stat implements storage.ProviderPort. The size is the original's, or -1 if only decompressing the
// whole object would tell. It is not authenticated. Stat makes one request more than the inner
// provider's, and for a zstd-seekable object a call of the key service, too.
func (e *encrypted) Stat(ctx context.Context, params storage.GetParams) (*storage.ObjectInfo, error) {
	info, err := e.stat(ctx, params.Repository, params.Key)
	if err != nil {
		return nil, fmt.Errorf("stat %s: %w", params.Key, err)
	}
	return info, nil
}

func (e *encrypted) stat(ctx context.Context, repository, key string) (_ *storage.ObjectInfo, err error) {
	s, err := e.open(ctx, repository, key)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if passed, err := e.passed(s.header, s.info.Metadata); passed || err != nil {
		return s.info, err
	}
	info := *s.info
	info.Metadata = maps.Clone(info.Metadata)
	delete(info.Metadata, TransformersKey)
	if ours(s.header) {
		if names := s.header.EncryptionContext[TransformersKey]; names != noTransformers {
			if info.Metadata == nil {
				info.Metadata = make(map[string]string)
			}
			info.Metadata[TransformersKey] = names
		}
	}
	if s.header != nil && s.header.EncryptionContext[pikokms.ChainKey] == compress.ZstdSeekable {
		content, err := e.host.OpenObject(ctx, name(repository, key), s)
		if err != nil {
			return nil, err
		}
		info.Size = content.Size()
		return &info, nil
	}
	info.Size, err = e.host.StatedSize(io.NewSectionReader(s, 0, s.Size()), s.Size())
	return &info, err
}

package pikostorage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/service"
)

// Stat implements storage.ProviderPort. The size is the original's. It is not authenticated, and
// neither is the rest, except for the names of Piko's own transformers in the metadata.
//
// Stat makes one request more than the inner provider's, unless it has seen the object as it is. It
// calls the key service if transformers of Piko made the object, or if zstd-seekable compressed it.
// An object that was compressed otherwise is read to its end.
//
// While the key service is known to be down, the error holds service.ErrBreakerOpen. Piko sends an
// object's size before its content, and this lets it send an error instead.
func (e *encrypted) Stat(ctx context.Context, params storage.GetParams) (*storage.ObjectInfo, error) {
	info, err := e.stat(ctx, params.Repository, params.Key)
	if err != nil {
		return nil, fmt.Errorf("stat %s: %w", params.Key, err)
	}
	return info, nil
}

func (e *encrypted) stat(ctx context.Context, repository, key string) (*storage.ObjectInfo, error) {
	if e.host.CryptoService().State() == service.StateOpen {
		return nil, service.ErrBreakerOpen
	}
	stored, err := e.inner.Stat(ctx, paramsFor(repository, key))
	if err != nil {
		return nil, err
	}
	f, known := e.seen.facts(objectName(repository, key), stored)
	if !known {
		if f, err = e.inspect(ctx, repository, key, stored); err != nil {
			return nil, err
		}
	}
	e.seen.add(objectName(repository, key), f)
	if f.names == "" {
		return stored, nil
	}
	info := *stored
	info.Size = f.size
	info.Metadata = maps.Clone(info.Metadata)
	delete(info.Metadata, transformersKey)
	if f.names != noTransformers {
		if info.Metadata == nil {
			info.Metadata = make(map[string]string)
		}
		info.Metadata[transformersKey] = f.names
	}
	return &info, nil
}

// facts are what is known of a stored object.
type facts struct {
	storage.ObjectInfo        // of the stored object when it was looked at, without metadata
	size               int64  // of the original
	names              string // of Piko's transformers; empty if the object is passed to them as it is
	certain            bool   // a replaced object would have another ETag or another time
}

// inspect opens an object, and returns the facts that its header states.
func (e *encrypted) inspect(ctx context.Context, repository, key string, info *storage.ObjectInfo) (f facts, err error) {
	s, err := e.openAs(ctx, repository, key, info)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	f.ObjectInfo, f.size = *s.info, s.info.Size
	f.Metadata = nil
	// A file system's clock may stand still for some milliseconds between two versions.
	f.certain = f.ETag != "" || time.Since(f.LastModified) > time.Second
	if passed, err := e.isPassed(s.header, s.info.Metadata); passed || err != nil {
		f.certain = false // it depends on the metadata
		return f, err
	}
	f.names = namesIn(s.header)
	if h := s.header; f.names == noTransformers {
		if isOurs(h) && h.EncryptionContext[provider.PairUse] == provider.UseObject && h.EncryptionContext[pikokms.PairTransformers] == "" && !isSigned(h) {
			if f.size, err = message.PlaintextSize(h, s.Size()); err == nil {
				return f, nil
			}
		}
		f.size, err = e.host.StatedSize(io.NewSectionReader(s, 0, s.Size()), s.Size())
		if err != nil || f.size >= 0 {
			return f, err
		}
	}
	// Decrypting verifies the header, and the names with it.
	content, err := e.host.OpenObject(ctx, objectName(repository, key), s, nil)
	if err == nil {
		f.size = content.Size()
		return f, nil
	}
	if !errors.Is(err, pikokms.ErrNotSeekable) {
		return f, err
	}
	o, names, err := e.openWhole(ctx, paramsFor(repository, key))
	if err != nil {
		return f, err
	}
	f.size, err = io.Copy(io.Discard, o)
	f.names = names
	return f, errors.Join(err, o.Close())
}

// seen remembers objects that Stat has looked at. Piko asks for an object's size twice before it
// gets the object. seen is safe for concurrent use.
type seen struct {
	mu      sync.Mutex
	objects map[string]facts
}

// maxSeen is how many objects are remembered, with some 200 bytes for each.
const maxSeen = 10_000

// add remembers an object.
func (s *seen) add(name string, f facts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil || len(s.objects) >= maxSeen {
		s.objects = make(map[string]facts)
	}
	s.objects[name] = f
}

// facts returns what is known of an object, unless it may have been replaced.
func (s *seen) facts(name string, now *storage.ObjectInfo) (facts, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, known := s.objects[name]
	same := f.Size == now.Size && f.ETag == now.ETag && f.LastModified.Equal(now.LastModified)
	return f, known && f.certain && same
}

// names returns the transformers that Stat has last named for an object.
func (s *seen) names(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.objects[name]; f.names != "" {
		return f.names
	}
	return noTransformers
}

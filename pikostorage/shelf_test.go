package pikostorage_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"piko.sh/piko/wdk/storage"
)

// shelf is a storage provider in memory, with what the providers of Piko do.
type shelf struct {
	// native makes the shelf upload in parts and in batches, presign URLs and hash with MD5, as S3
	// does.
	native bool

	mu      sync.Mutex
	objects map[string]shelved
	failing func(read []byte) error // of Put, after it has read so much
	puts    []storage.PutParams
	gets    int
	closes  int
}

type shelved struct {
	content     []byte
	metadata    map[string]string
	contentType string
	stored      time.Time
}

func newShelf(native bool) *shelf { return &shelf{native: native, objects: make(map[string]shelved)} }

var _ storage.ProviderPort = (*shelf)(nil)

func place(repository, key string) string { return repository + "\x00" + key }

func (s *shelf) Put(ctx context.Context, params *storage.PutParams) error {
	s.mu.Lock()
	s.puts = append(s.puts, *params)
	failing := s.failing
	s.mu.Unlock()
	r := params.Reader
	if failing != nil {
		r = io.LimitReader(r, 200_001)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("storing %s: %w", params.Key, err)
	}
	if failing != nil {
		if err := failing(content); err != nil {
			return err
		}
	}
	if params.Size >= 0 && params.Size != int64(len(content)) {
		return fmt.Errorf("storing %s: %d bytes came of %d", params.Key, len(content), params.Size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[place(params.Repository, params.Key)] = shelved{content, maps.Clone(params.Metadata), params.ContentType, time.Now()}
	return ctx.Err()
}

func (s *shelf) find(repository, key string) (shelved, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[place(repository, key)]
	if !ok {
		return o, fmt.Errorf("object not found at key '%s': %w", key, fs.ErrNotExist)
	}
	return o, nil
}

func (s *shelf) Get(_ context.Context, params storage.GetParams) (io.ReadCloser, error) {
	o, err := s.find(params.Repository, params.Key)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.gets++
	s.mu.Unlock()
	content := o.content
	if r := params.ByteRange; r != nil {
		if r.Start >= int64(len(content)) {
			return nil, errors.New("416 range not satisfiable")
		}
		end := int64(len(content))
		if r.End >= 0 {
			end = min(end, r.End+1)
		}
		content = content[r.Start:end]
	}
	return io.NopCloser(bytes.NewReader(content)), nil
}

func (s *shelf) Stat(_ context.Context, params storage.GetParams) (*storage.ObjectInfo, error) {
	o, err := s.find(params.Repository, params.Key)
	if err != nil {
		return nil, err
	}
	return &storage.ObjectInfo{
		Size: int64(len(o.content)), Metadata: o.metadata, ContentType: o.contentType,
		LastModified: o.stored, ETag: fmt.Sprintf("%x", md5.Sum(o.content)),
	}, nil
}

func (s *shelf) Copy(ctx context.Context, repository string, from, to string) error {
	return s.CopyToAnotherRepository(ctx, repository, from, repository, to)
}

func (s *shelf) CopyToAnotherRepository(_ context.Context, fromRepository string, from string, toRepository string, to string) error {
	o, err := s.find(fromRepository, from)
	if err != nil {
		return err
	}
	if !s.native {
		o.metadata = nil // as the disk provider loses them
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[place(toRepository, to)] = o
	return nil
}

func (s *shelf) Remove(_ context.Context, params storage.GetParams) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, place(params.Repository, params.Key))
	return nil
}

func (s *shelf) Rename(ctx context.Context, repository string, from, to string) error {
	if err := s.Copy(ctx, repository, from, to); err != nil {
		return err
	}
	return s.Remove(ctx, storage.GetParams{Repository: repository, Key: from})
}

func (s *shelf) Exists(_ context.Context, params storage.GetParams) (bool, error) {
	_, err := s.find(params.Repository, params.Key)
	return err == nil, nil
}

func (s *shelf) GetHash(_ context.Context, params storage.GetParams) (string, error) {
	o, err := s.find(params.Repository, params.Key)
	return s.hash(o.content), err
}

func (s *shelf) hash(content []byte) string {
	if s.native {
		sum := md5.Sum(content)
		return hex.EncodeToString(sum[:])
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func (s *shelf) PresignURL(context.Context, storage.PresignParams) (string, error) {
	return "https://bucket.example/upload", nil
}

func (s *shelf) PresignDownloadURL(context.Context, storage.PresignDownloadParams) (string, error) {
	return "https://bucket.example/download", nil
}

// Close fails the second time, as that of the S3 provider does.
func (s *shelf) Close(context.Context) error {
	s.closes++
	if s.closes > 1 {
		return errors.New("closed already")
	}
	return nil
}

func (s *shelf) PutMany(ctx context.Context, params *storage.PutManyParams) (*storage.BatchResult, error) {
	return nil, errors.New("the inner provider is not asked for batches")
}

func (s *shelf) RemoveMany(ctx context.Context, params storage.RemoveManyParams) (*storage.BatchResult, error) {
	for _, key := range params.Keys {
		_ = s.Remove(ctx, storage.GetParams{Repository: params.Repository, Key: key})
	}
	return &storage.BatchResult{SuccessfulKeys: params.Keys, TotalRequested: len(params.Keys), TotalSuccessful: len(params.Keys)}, nil
}

func (s *shelf) SupportsMultipart() bool       { return s.native }
func (s *shelf) SupportsRetry() bool           { return s.native }
func (s *shelf) SupportsCircuitBreaking() bool { return false }
func (s *shelf) SupportsRateLimiting() bool    { return s.native }
func (s *shelf) SupportsBatchOperations() bool { return s.native }
func (s *shelf) SupportsPresignedURLs() bool   { return s.native }

// change replaces the stored bytes of an object.
func (s *shelf) change(repository, key string, how func([]byte) []byte) {
	o, err := s.find(repository, key)
	if err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o.content = how(bytes.Clone(o.content))
	s.objects[place(repository, key)] = o
}

// listed is a shelf with the ports that Piko looks for.
type listed struct{ *shelf }

func (l listed) ListKeys(_ context.Context, repository string) ([]string, error) {
	var keys []string
	for p := range l.objects {
		if rest, ok := bytes.CutPrefix([]byte(p), []byte(place(repository, ""))); ok {
			keys = append(keys, string(rest))
		}
	}
	slices.Sort(keys)
	return keys, nil
}

type described struct{ *shelf }

func (described) GetProviderType() string { return "shelf" }

func (described) GetProviderMetadata() map[string]any {
	return map[string]any{"version": "1", "supports_presigned": true}
}

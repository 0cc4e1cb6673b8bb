package blobstorage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/memblob"
	"gocloud.dev/gcerrors"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/model"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/service"
)

// bucketStore is an encrypting bucket, and a host on the same bucket for what a bucket does not do.
type bucketStore struct {
	bucket *blob.Bucket
	host   *pikokms.Host
	faults *adversary.Calls
}

// notExist adds fs.ErrNotExist to an error of gocloud.dev that means it.
func notExist(err error) error {
	if gcerrors.Code(err) == gcerrors.NotFound {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

func (s bucketStore) Put(ctx context.Context, key string, content io.Reader) error {
	return s.bucket.Upload(ctx, key, s.faults.Reader(content), &blob.WriterOptions{ContentType: "a/b"})
}

func (s bucketStore) Get(ctx context.Context, key string) ([]byte, error) {
	got, err := s.bucket.ReadAll(ctx, key)
	return got, notExist(err)
}

func (s bucketStore) Range(ctx context.Context, key string, from, length int64) ([]byte, error) {
	o, err := s.bucket.NewRangeReader(ctx, key, from, length, nil)
	if err != nil {
		return nil, notExist(err)
	}
	got, err := io.ReadAll(o)
	return got, errors.Join(err, o.Close())
}

func (s bucketStore) Copy(ctx context.Context, from, to string) error {
	return notExist(s.bucket.Copy(ctx, to, from, nil))
}

func (s bucketStore) Delete(ctx context.Context, key string) error {
	return notExist(s.bucket.Delete(ctx, key))
}
func (s bucketStore) Rewrap(ctx context.Context, key string) error { return s.host.Rewrap(ctx, key) }
func (s bucketStore) Close() error                                 { return s.host.Close() }

// TestModel compares buckets in memory and of files with a map, and breaks each call of sources and
// keys in its turn.
func TestModel(t *testing.T) {
	for name, open := range map[string]func() (*blob.Bucket, error){
		"memory": func() (*blob.Bucket, error) { return memblob.OpenBucket(nil), nil },
		"files": func() func() (*blob.Bucket, error) {
			dir := filepath.Join(t.TempDir(), "objects")
			return func() (*blob.Bucket, error) {
				if err := os.RemoveAll(dir); err != nil {
					return nil, err
				}
				return fileblob.OpenBucket(dir, &fileblob.Options{CreateDir: true, NoTempDir: true, Metadata: fileblob.MetadataDontWrite})
			}
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			var inner *blob.Bucket
			system := model.System{
				Open: func(faults *adversary.Calls, options []pikokms.Option) (model.Store, error) {
					// It is not closed, since that would close the bucket in it.
					bucket, err := Encrypt(inner, options...)
					if err != nil {
						return nil, err
					}
					host, err := pikokms.New(append(options, pikokms.WithStorage(New(inner, nil)))...)
					return bucketStore{bucket, host, faults}, err
				},
				Reset: func() (err error) {
					inner, err = open()
					return err
				},
				// What is read of two objects in turn, since one replaced the other, does not open,
				// or ends too soon.
				Expects: func(err error) bool {
					return errors.Is(err, service.ErrBreakerOpen) || errors.Is(err, provider.ErrDecryptionFailed) || errors.Is(err, io.ErrUnexpectedEOF)
				},
				Lists: func() (keys []string, err error) {
					objects := inner.List(nil)
					for {
						o, err := objects.Next(context.Background())
						if err == io.EOF {
							return keys, nil
						}
						if err != nil {
							return nil, err
						}
						keys = append(keys, o.Key)
					}
				},
				Unconditional: true,
			}
			model.Check(t, system)
			model.EachFault(t, system)
		})
	}
}

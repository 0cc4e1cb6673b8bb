package model_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/model"
	"piko.sh/pikokms/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hostStore is a host with a storage.
type hostStore struct {
	*pikokms.Host
	storage adversary.FullStorage
}

func (s hostStore) Get(ctx context.Context, key string) ([]byte, error) {
	r, err := s.Host.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(r)
	return got, errors.Join(err, r.Close())
}

func (s hostStore) Range(ctx context.Context, key string, from, length int64) ([]byte, error) {
	o, err := s.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(io.NewSectionReader(o, from, length))
	return got, errors.Join(err, o.Close())
}

// Copy reads the one and puts it as the other, as an application does.
func (s hostStore) Copy(ctx context.Context, from, to string) error {
	r, err := s.Host.Get(ctx, from)
	if err != nil {
		return err
	}
	return errors.Join(s.Put(ctx, to, r), r.Close())
}

func check(t *testing.T, storage func() (adversary.FullStorage, error), options ...pikokms.Option) {
	var inner adversary.FullStorage
	model.Check(t, model.System{
		Open: func(faults *adversary.Calls, keys []pikokms.Option) (model.Store, error) {
			h, err := pikokms.New(append(append(keys, pikokms.WithStorage(faults.Storage(inner))), options...)...)
			return hostStore{h, inner}, err
		},
		Reset: func() (err error) {
			inner, err = storage()
			return err
		},
		Expects: func(err error) bool { return errors.Is(err, service.ErrBreakerOpen) },
		Lists: func() (keys []string, err error) {
			for key, err := range inner.List(context.Background(), "") {
				if err != nil {
					return nil, err
				}
				keys = append(keys, key)
			}
			return keys, nil
		},
	})
}

func inMemory() (adversary.FullStorage, error) { return adversary.NewMemory(), nil }

func TestHost(t *testing.T) { check(t, inMemory) }

func TestHostWithCompressionAndCache(t *testing.T) {
	check(t, inMemory, pikokms.WithEnabledTransformers(compress.ZstdSeekable), pikokms.WithDataKeyCache(service.CacheLimits{MaxMessages: 3, MaxKeys: 2}))
}

func TestHostOnAFolder(t *testing.T) {
	var folder *folderstorage.Storage
	dir := filepath.Join(t.TempDir(), "objects")
	check(t, func() (adversary.FullStorage, error) {
		if folder != nil {
			if err := errors.Join(folder.Close(), os.RemoveAll(dir)); err != nil {
				return nil, err
			}
		}
		var err error
		folder, err = folderstorage.New(dir)
		return folder, err
	})
	require.NoError(t, folder.Close())
}

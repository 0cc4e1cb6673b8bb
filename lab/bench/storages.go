package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/lab/localstack"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/s3storage"
)

// storage opens a place for objects. It is closed after it was measured.
type storage struct {
	name  string
	needs string // what the machine may lack; without it the storage is left out
	open  func() (pikokms.Storage, func() error, error)
}

var storages = []storage{{"folder", "", openFolder}, {"s3", "Docker with LocalStack's image", openS3}}

// measureStorages measures uploads and downloads, one storage after the other.
func measureStorages(o *options, stderr io.Writer) ([]result, error) {
	var results []result
	for _, s := range storages {
		if !o.only.MatchString(s.name+"-plain") && !o.only.MatchString(s.name+"-encrypted") {
			continue
		}
		measured, err := s.measure(o, stderr)
		if err != nil {
			return nil, err
		}
		results = append(results, measured...)
	}
	return results, nil
}

// measure measures plain objects and encrypted ones in turn. The base is plain objects, on the same
// number of cores.
func (s storage) measure(o *options, stderr io.Writer) (results []result, err error) {
	plain, end, err := s.open()
	if err != nil && s.needs != "" {
		fmt.Fprintf(stderr, "bench: %s is left out, it needs %s: %v\n", s.name, s.needs, err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	keyring, err := local.NewProvider(local.Config{Key: key})
	if err != nil {
		return nil, err
	}
	encrypted, err := pikokms.New(
		pikokms.WithCryptoProvider("local", keyring),
		pikokms.WithDefaultCryptoProvider("local"),
		pikokms.WithStorage(plain),
	)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, encrypted.Close()) }()
	for _, p := range o.parallelism {
		subjects := []subject{inStorage(s.name+"-plain", plain, p), inStorage(s.name+"-encrypted", encrypted, p)}
		measured, err := measureAll(o, subjects, [2]string{"upload", "download"}, stderr)
		if err != nil {
			return nil, err
		}
		results = append(results, measured...)
	}
	return results, nil
}

// openFolder makes a temporary folder.
func openFolder() (pikokms.Storage, func() error, error) {
	dir, err := os.MkdirTemp("", "pikokms-bench-")
	if err != nil {
		return nil, nil, err
	}
	folder, err := folderstorage.New(dir)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return folder, func() error { return errors.Join(folder.Close(), os.RemoveAll(dir)) }, nil
}

// openS3 starts LocalStack and makes a bucket.
func openS3() (_ pikokms.Storage, _ func() error, err error) {
	// The container is removed at the end, so that Ryuk, a second container that would do so, is
	// not needed.
	if err := os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true"); err != nil {
		return nil, nil, err
	}
	ctx := context.Background()
	container, err := localstack.Start(ctx)
	if err != nil {
		return nil, nil, err
	}
	client := s3.New(s3.Options{
		Region: localstack.Region, BaseEndpoint: &container.Endpoint, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(localstack.Credentials, localstack.Credentials, ""),
	})
	bucket := "bench"
	_, err = client.CreateBucket(ctx, &s3.CreateBucketInput{
		Bucket:                    &bucket,
		CreateBucketConfiguration: &types.CreateBucketConfiguration{LocationConstraint: localstack.Region},
	})
	if err != nil {
		return nil, nil, errors.Join(err, container.Close())
	}
	return s3storage.New(client, bucket), container.Close, nil
}

// inStorage uploads an object that is not stored yet, and downloads it.
func inStorage(name string, storage pikokms.Storage, parallelism int) subject {
	ctx := context.Background()
	return subject{
		name: name, parallelism: parallelism,
		encrypt: func(w *workspace, times int) (elapsed time.Duration, err error) {
			for range times {
				// The time to give an old object's blocks back to the file system is no part of an
				// upload.
				if err := storage.Delete(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return 0, err
				}
				w.begin()
				start := time.Now()
				if err := storage.Put(ctx, name, w.source); err != nil {
					return 0, err
				}
				elapsed += time.Since(start)
			}
			return elapsed, nil
		},
		decrypt: repeat(func(w *workspace) error {
			object, err := storage.Get(ctx, name)
			if err != nil {
				return err
			}
			_, err = io.Copy(w.destination, object)
			return errors.Join(err, object.Close())
		}),
	}
}

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
	"piko.sh/pikokms/internal/localstack"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/s3storage"
)

// storage opens a place for objects, which is closed after it was measured.
type storage struct {
	name  string
	needs string // what a machine may lack; the storage is then left out
	open  func() (pikokms.Storage, func() error, error)
}

var storages = []storage{{"folder", "", openFolder}, {"s3", "Docker with LocalStack's image", openS3}}

// measureStorages measures uploads and downloads, in one storage after the other.
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

// measure has plain objects and encrypted ones take turns. The base is plain on as many cores.
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
	key := make([]byte, local.KeySize)
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
	folder, err := pikokms.NewFolder(dir)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return folder, func() error { return errors.Join(folder.Close(), os.RemoveAll(dir)) }, nil
}

// openS3 starts LocalStack and makes a bucket.
func openS3() (_ pikokms.Storage, _ func() error, err error) {
	// The container is removed in the end, so no second one is needed for that.
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

// inStorage uploads to an object that is not there, and downloads it.
func inStorage(name string, storage pikokms.Storage, parallelism int) subject {
	ctx := context.Background()
	return subject{
		name: name, parallelism: parallelism,
		encrypt: func(w *workspace, times int) (elapsed time.Duration, err error) {
			for range times {
				// Giving an old object's blocks back to the file system is no part of an upload.
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

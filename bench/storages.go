package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"piko.sh/pikokms"
	"piko.sh/pikokms/provider/local"
)

// storage opens a place for objects, which is closed after it was measured.
type storage struct {
	name string
	open func() (pikokms.Storage, func() error, error)
}

var storages = []storage{{"folder", openFolder}}

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

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

// measureFolders measures uploads and downloads in a temporary folder.
func measureFolders(o *options, stderr io.Writer) (results []result, err error) {
	dir, err := os.MkdirTemp("", "pikokms-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	f, err := openFolders(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	return measureAll(o, f.subjects(o.parallelism), [2]string{"upload", "download"}, stderr)
}

// folders is a folder as storage, and a host that encrypts before it.
type folders struct {
	folder *pikokms.Folder
	host   *pikokms.Host
}

func openFolders(dir string) (*folders, error) {
	key := make([]byte, local.KeySize)
	_, _ = rand.Read(key) // never fails
	keyring, err := local.NewProvider(local.Config{Key: key})
	if err != nil {
		return nil, err
	}
	folder, err := pikokms.NewFolder(dir)
	if err != nil {
		return nil, err
	}
	host, err := pikokms.New(
		pikokms.WithCryptoProvider("local", keyring),
		pikokms.WithDefaultCryptoProvider("local"),
		pikokms.WithStorage(folder),
	)
	if err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	return &folders{folder, host}, nil
}

func (f *folders) close() error { return errors.Join(f.host.Close(), f.folder.Close()) }

// subjects begins with the base of the ratios, on one core.
func (f *folders) subjects(parallelism []int) []subject {
	subjects := []subject{inStorage("folder-plain", f.folder, 1)}
	for _, p := range parallelism {
		subjects = append(subjects, inStorage("folder-encrypted", f.host, p))
	}
	return subjects
}

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
				w.plaintextReader.Reset(w.plaintext)
				start := time.Now()
				if err := storage.Put(ctx, name, w.source); err != nil {
					return 0, err
				}
				elapsed += time.Since(start)
			}
			return elapsed, nil
		},
		decrypt: repeat(func(w *workspace) error {
			w.opened.Reset()
			object, err := storage.Get(ctx, name)
			if err != nil {
				return err
			}
			_, err = io.Copy(w.result, object)
			return errors.Join(err, object.Close())
		}),
	}
}

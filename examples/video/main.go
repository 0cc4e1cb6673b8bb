// Command video serves an encrypted file over HTTP with range requests, as video players make them.
// It reads and decrypts only the frames that a range touches.
//
//	go run ./examples/video FILE     # then open http://localhost:8080/
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/provider/local"
)

const address = "localhost:8080"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: video FILE")
		os.Exit(2)
	}
	if err := serve(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "video:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, file string) (err error) {
	dir, err := os.MkdirTemp("", "pikokms-video-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	host, err := newHost(dir)
	if err != nil {
		return err
	}
	video, err := os.Open(file)
	if err != nil {
		return err
	}
	defer video.Close()
	if err := host.Put(ctx, filepath.Base(file), video); err != nil {
		return err
	}
	fmt.Printf("%s is encrypted in %s and served at http://%s/\n", file, dir, address)
	return http.ListenAndServe(address, handler(host, filepath.Base(file)))
}

// newHost returns a host that stores in a folder, under a new local key.
func newHost(dir string) (*pikokms.Host, error) {
	keyFile := filepath.Join(dir, "local.key")
	if err := local.Generate(keyFile); err != nil {
		return nil, err
	}
	provider, err := local.NewProvider(local.Config{KeyFile: keyFile})
	if err != nil {
		return nil, err
	}
	folder, err := folderstorage.New(filepath.Join(dir, "objects"))
	if err != nil {
		return nil, err
	}
	return pikokms.New(
		pikokms.WithCryptoProvider("local", provider),
		pikokms.WithDefaultCryptoProvider("local"),
		pikokms.WithStorage(folder),
	)
}

// handler serves one object, and any range of it.
func handler(host *pikokms.Host, key string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		object, err := host.Open(r.Context(), key)
		if errors.Is(err, fs.ErrNotExist) {
			http.NotFound(w, r)
			return
		}
		if err != nil {
			http.Error(w, "the object can't be read", http.StatusInternalServerError)
			return
		}
		defer object.Close()
		http.ServeContent(w, r, key, object.ModTime(), object)
	})
}

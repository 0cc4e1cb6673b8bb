package folderstorage_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"strings"

	"piko.sh/pikokms/folderstorage"
)

// A folder keeps what a pikokms.Host makes of its objects: give it to pikokms.WithStorage. On its
// own it encrypts nothing.
func ExampleNew() {
	dir, err := os.MkdirTemp("", "example-*")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	folder, err := folderstorage.New(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer folder.Close()

	ctx := context.Background()
	if err := folder.Put(ctx, "a/b.txt", strings.NewReader("hello")); err != nil {
		log.Fatal(err)
	}
	for key, err := range folder.List(ctx, "a/") {
		fmt.Println(key, err)
	}
	_, err = folder.Get(ctx, "none")
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	err = folder.Put(ctx, "../outside", strings.NewReader("hello"))
	fmt.Println(errors.Is(err, folderstorage.ErrInvalidObjectKey))
	// Output:
	// a/b.txt <nil>
	// true
	// true
}

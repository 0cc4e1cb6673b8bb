package blobstorage_test

import (
	"context"
	"fmt"
	"strings"

	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"piko.sh/pikokms"
	"piko.sh/pikokms/blobstorage"
	"piko.sh/pikokms/provider/local"
)

func ExampleEncrypt() {
	ctx := context.Background()
	key, err := local.NewProvider(local.Config{Key: make([]byte, 32)}) // a real one comes from a file, or is AWS KMS's
	if err != nil {
		fmt.Println(err)
		return
	}
	defer key.Close()
	stored := memblob.OpenBucket(nil)
	bucket, err := blobstorage.Encrypt(stored, pikokms.WithCryptoProvider("local", key))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer bucket.Close()

	// Upload stores nothing of a source that fails.
	err = bucket.Upload(ctx, "notes.txt", strings.NewReader("hello"), &blob.WriterOptions{ContentType: "text/plain"})
	if err != nil {
		fmt.Println(err)
		return
	}
	content, err := bucket.ReadAll(ctx, "notes.txt")
	if err != nil {
		fmt.Println(err)
		return
	}
	there, err := stored.ReadAll(ctx, "notes.txt")
	fmt.Printf("%s, stored as %x…, %v\n", content, there[:3], err)
	// Output: hello, stored as 020478…, <nil>
}

// A host has what a bucket does not, such as moving objects to another key.
func ExampleNew() {
	ctx := context.Background()
	key, err := local.NewProvider(local.Config{Key: make([]byte, 32)})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer key.Close()
	bucket := memblob.OpenBucket(nil) // or blob.OpenBucket
	defer bucket.Close()
	host, err := pikokms.New(pikokms.WithCryptoProvider("local", key), pikokms.WithStorage(blobstorage.New(bucket, nil)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer host.Close()
	if err := host.Put(ctx, "notes.txt", strings.NewReader("hello")); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(host.IsCurrent(ctx, "notes.txt"))
	// Output: true <nil>
}

// A blob.Writer does not know that its source has failed: its context says that what was written is
// to be dropped.
func ExampleEncrypt_writer() {
	key, err := local.NewProvider(local.Config{Key: make([]byte, 32)})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer key.Close()
	bucket, err := blobstorage.Encrypt(memblob.OpenBucket(nil), pikokms.WithCryptoProvider("local", key))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer bucket.Close()

	render := func(w *blob.Writer) error {
		fmt.Fprintln(w, "the first line")
		return fmt.Errorf("no second line")
	}
	store := func(key string) error {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		w, err := bucket.NewWriter(ctx, key, nil)
		if err != nil {
			return err
		}
		if err := render(w); err != nil {
			cancel()
			_ = w.Close() // says that the context has ended
			return err
		}
		return w.Close()
	}
	fmt.Println(store("page"))
	exists, err := bucket.Exists(context.Background(), "page")
	fmt.Println(exists, err)
	// Output:
	// no second line
	// false <nil>
}

// Command bucket encrypts the bucket of an application that uses gocloud.dev/blob, by changing one
// of its lines. By default the bucket is in memory and the key in a file, so it runs anywhere. With
// -s3 the bucket is in S3 and the key in AWS KMS. Both are LocalStack's, in a container that it
// starts and removes, so it needs Docker and no AWS account.
//
//	go run ./lab/examples/bucket
//	go run ./lab/examples/bucket -s3
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/memblob"

	"piko.sh/pikokms"
	"piko.sh/pikokms/blobstorage"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

func main() {
	onS3 := flag.Bool("s3", false, "use S3 and AWS KMS of LocalStack, which needs Docker")
	flag.Parse()
	run := inMemory
	if *onS3 {
		run = inS3
	}
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bucket:", err)
		os.Exit(1)
	}
}

// inMemory runs the application with a bucket in memory and a key in a file.
func inMemory(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "pikokms-bucket")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := local.Generate(dir + "/dev.key"); err != nil {
		return err
	}
	key, err := local.NewProvider(local.Config{KeyFile: dir + "/dev.key"})
	if err != nil {
		return err
	}
	defer key.Close()
	return application(ctx, out, "mem://uploads", key)
}

// application opens the bucket of a URL, encrypts it under a key, and uses it.
func application(ctx context.Context, out io.Writer, bucketURL string, key provider.EncryptionProvider) (err error) {
	// The application had this line before. Against AWS the URL is "s3://uploads?region=eu-west-1".
	stored, err := blob.OpenBucket(ctx, bucketURL)
	if err != nil {
		return err
	}
	// This line is new.
	bucket, err := blobstorage.Encrypt(stored, pikokms.WithCryptoProvider("key", key), pikokms.WithDefaultCryptoProvider("key"))
	if err != nil {
		return errors.Join(err, stored.Close())
	}
	defer func() { err = errors.Join(err, bucket.Close()) }()
	return use(ctx, out, bucket, stored)
}

// use is the rest of the application, which does not notice the encryption.
func use(ctx context.Context, out io.Writer, bucket, stored *blob.Bucket) error {
	content := make([]byte, 8<<20)
	_, _ = rand.Read(content) // never fails
	if err := bucket.WriteAll(ctx, "large.bin", content, nil); err != nil {
		return err
	}
	attributes, err := bucket.Attributes(ctx, "large.bin")
	if err != nil {
		return err
	}
	inBucket, err := stored.Attributes(ctx, "large.bin")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "large.bin: %d bytes, %d in the bucket\n", attributes.Size, inBucket.Size)
	r, err := bucket.NewRangeReader(ctx, "large.bin", 5_000_000, 1000, nil)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	if !bytes.Equal(got, content[5_000_000:5_001_000]) {
		return errors.New("the range came back changed")
	}
	fmt.Fprintf(out, "  read back  %d bytes from its middle, the same\n", len(got))
	return nil
}

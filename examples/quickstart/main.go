// Command quickstart stores a file through an encrypting host in a folder, under a new local key.
// It shows what lies on disk, reads it back and compares it. It needs no cloud account.
//
//	go run ./examples/quickstart [FILE]
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider/local"
)

func main() {
	file := "README.md"
	switch len(os.Args) {
	case 1:
	case 2:
		file = os.Args[1]
	default:
		fmt.Fprintln(os.Stderr, "usage: quickstart [FILE]")
		os.Exit(2)
	}
	if err := run(context.Background(), file); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, file string) (err error) {
	dir, err := os.MkdirTemp("", "pikokms-quickstart-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	// A local key takes the place of AWS KMS here. With AWS KMS, use awskms.NewProvider(ctx,
	// awskms.Config{KeyID: …, Region: …}).
	keyFile := filepath.Join(dir, "local.key")
	if err := local.Generate(keyFile); err != nil {
		return err
	}
	provider, err := local.NewProvider(local.Config{KeyFile: keyFile})
	if err != nil {
		return err
	}
	defer provider.Close()

	// From here on, the application does not deal with encryption.
	folder, err := folderstorage.New(filepath.Join(dir, "objects"))
	if err != nil {
		return err
	}
	defer folder.Close()
	host, err := pikokms.New(
		pikokms.WithCryptoProvider("local", provider),
		pikokms.WithDefaultCryptoProvider("local"),
		pikokms.WithStorage(folder),
	)
	if err != nil {
		return err
	}

	original, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("%w (run it in the repository's root, or name a FILE)", err)
	}
	defer original.Close()
	const key = "quickstart/object"
	sum := sha256.New()
	if err := host.Put(ctx, key, io.TeeReader(original, sum)); err != nil {
		return err
	}
	fmt.Printf("stored       %s as %s\n", file, key)

	if err := showStored(filepath.Join(dir, "objects", filepath.FromSlash(key)), original); err != nil {
		return err
	}

	content, err := host.Get(ctx, key)
	if err != nil {
		return err
	}
	defer content.Close()
	readBack := sha256.New()
	n, err := io.Copy(readBack, content)
	if err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), readBack.Sum(nil)) {
		return errors.New("what was read back differs from what was stored")
	}
	fmt.Printf("read back    %d bytes, the same: SHA-256 %x…\n", n, readBack.Sum(nil)[:8])
	return nil
}

// showStored prints what anyone who has the disk can see.
func showStored(path string, original *os.File) error {
	stored, err := os.Open(path)
	if err != nil {
		return err
	}
	defer stored.Close()
	info, err := stored.Stat()
	if err != nil {
		return err
	}
	h, err := header.Read(stored, header.Limits{})
	if err != nil {
		return err
	}
	plaintextSize, err := message.PlaintextSize(h, info.Size())
	if err != nil {
		return err
	}
	fmt.Printf("on disk      %d bytes of AWS Encryption SDK message for %d bytes of plaintext\n", info.Size(), plaintextSize)
	fmt.Printf("  suite      %v\n", h.Suite)
	fmt.Printf("  message ID %x\n", h.MessageID)
	fmt.Printf("  context    %v\n", h.EncryptionContext)
	for _, k := range h.EncryptedDataKeys {
		fmt.Printf("  data key   %d bytes, wrapped under key %q of provider %q\n", len(k.Ciphertext), message.KeyName(k), k.ProviderID)
	}
	fmt.Printf("  frames     of %d bytes, after a header of %d\n", h.FrameLength, h.Size())
	fmt.Printf("  begins     % x …\n", h.Bytes()[:16])
	return searchPlaintext(stored, original)
}

// searchPlaintext looks in a stored object for pieces of the original.
func searchPlaintext(stored, original *os.File) error {
	const pieces, size = 8, 32
	info, err := original.Stat()
	if err != nil {
		return err
	}
	if info.Size() < size {
		fmt.Printf("  plaintext  not searched for: the file has under %d bytes\n", size)
		return nil
	}
	var samples [pieces][size]byte
	for i := range samples {
		if _, err := original.ReadAt(samples[i][:], (info.Size()-size)*int64(i)/(pieces-1)); err != nil {
			return err
		}
	}
	if _, err := stored.Seek(0, io.SeekStart); err != nil {
		return err
	}
	window := make([]byte, 0, 1<<20)
	for {
		n, err := io.ReadFull(stored, window[len(window):cap(window)])
		window = window[:len(window)+n]
		for i := range samples {
			if bytes.Contains(window, samples[i][:]) {
				return errors.New("the stored object holds plaintext")
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			fmt.Printf("  plaintext  none: %d pieces of the file searched for, none found\n", pieces)
			return nil
		}
		if err != nil {
			return err
		}
		// A piece may lie across two windows.
		window = append(window[:0], window[len(window)-size:]...)
	}
}

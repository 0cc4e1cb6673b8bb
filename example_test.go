package pikokms_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"piko.sh/pikokms"
	"piko.sh/pikokms/provider/local"
)

// The wiring of an encrypting storage; with awskms.NewProvider in place of local.NewProvider the key is one of AWS KMS.
func ExampleNew() {
	dir, err := os.MkdirTemp("", "example-*")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	keyFile := filepath.Join(dir, "local.key")
	if err := local.Generate(keyFile); err != nil {
		fmt.Println(err)
		return
	}
	provider, err := local.NewProvider(local.Config{KeyFile: keyFile})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer provider.Close()
	folder, err := pikokms.NewFolder(filepath.Join(dir, "objects"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer folder.Close()

	storage, err := pikokms.New(
		pikokms.WithCryptoProvider("local", provider),
		pikokms.WithDefaultCryptoProvider("local"),
		pikokms.WithEnabledTransformers("zstd"),
		pikokms.WithStorage(folder),
	)
	if err != nil {
		fmt.Println(err)
		return
	}

	ctx := context.Background()
	if err := storage.Put(ctx, "notes/1", strings.NewReader("encrypted at rest")); err != nil {
		fmt.Println(err)
		return
	}
	content, err := storage.Get(ctx, "notes/1")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer content.Close()
	text, err := io.ReadAll(content)
	fmt.Println(string(text), err)
	// Output: encrypted at rest <nil>
}

// Two providers: what was stored under the one stays readable when the other becomes the default.
func ExampleHost_RotateKey() {
	dir, err := os.MkdirTemp("", "example-*")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	folder, err := pikokms.NewFolder(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer folder.Close()
	host, err := pikokms.New(
		pikokms.WithCryptoProvider("2025", exampleKey("2025")), // or one of package awskms
		pikokms.WithCryptoProvider("2026", exampleKey("2026")),
		pikokms.WithDefaultCryptoProvider("2025"),
		pikokms.BindObjectName("notes"), // an object in the place of another is refused
		pikokms.WithStorage(folder),
	)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := host.Put(ctx, "1", strings.NewReader("from last year")); err != nil {
		log.Fatal(err)
	}

	if err := host.RotateKey("2026"); err != nil {
		log.Fatal(err)
	}
	if err := host.Rewrap(ctx, "1"); err != nil { // or leave it as it is
		log.Fatal(err)
	}
	content, err := host.Get(ctx, "1")
	if err != nil {
		log.Fatal(err)
	}
	defer content.Close()
	text, err := io.ReadAll(content)
	fmt.Println(string(text), err)
	// Output: from last year <nil>
}

func exampleKey(name string) *local.Provider {
	key, err := local.NewProvider(local.Config{Key: make([]byte, 32), Name: name})
	if err != nil {
		log.Fatal(err)
	}
	return key
}

// A string for a database's column.
func ExampleHost_Encrypt() {
	folder, err := pikokms.NewFolder(os.TempDir())
	if err != nil {
		log.Fatal(err)
	}
	defer folder.Close()
	host, err := pikokms.New(pikokms.WithCryptoProvider("dev", exampleKey("dev")), pikokms.WithDefaultCryptoProvider("dev"), pikokms.WithStorage(folder))
	if err != nil {
		log.Fatal(err)
	}
	column := map[string]string{"column": "iban"}
	text, err := host.Encrypt(context.Background(), "DE89 3704 0044 0532 0130 00", column)
	if err != nil {
		log.Fatal(err)
	}
	iban, err := host.Decrypt(context.Background(), text, column)
	fmt.Println(iban, err)
	// Output: DE89 3704 0044 0532 0130 00 <nil>
}

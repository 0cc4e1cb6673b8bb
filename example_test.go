package pikokms_test

import (
	"context"
	"fmt"
	"io"
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

package pikokms_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// An application stores objects through an encrypting storage. With awskms.NewProvider in place of
// local.NewProvider, the key is one of AWS KMS.
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
	key, err := local.NewProvider(local.Config{KeyFile: keyFile})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer key.Close()
	folder, err := folderstorage.New(filepath.Join(dir, "objects"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer folder.Close()

	storage, err := pikokms.New(
		pikokms.WithCryptoProvider("local", key),
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

// A host has two providers. Objects under one stay readable after the other becomes the default.
func ExampleHost_SetDefaultCryptoProvider() {
	folder, remove := exampleFolder() // folderstorage.New("objects")
	defer remove()
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

	if err := host.SetDefaultCryptoProvider("2026"); err != nil {
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

// exampleKey returns a key of the example's own. A program would get it from awskms.NewProvider.
func exampleKey(name string) provider.Provider {
	key, err := local.NewProvider(local.Config{Key: make([]byte, 32), Name: name})
	if err != nil {
		log.Fatal(err)
	}
	return key
}

// exampleFolder returns a storage in a new folder, and a function that removes both.
func exampleFolder() (*folderstorage.Storage, func()) {
	dir, err := os.MkdirTemp("", "example-*")
	if err != nil {
		log.Fatal(err)
	}
	folder, err := folderstorage.New(dir)
	if err != nil {
		log.Fatal(err)
	}
	return folder, func() {
		folder.Close()
		os.RemoveAll(dir)
	}
}

// An application encrypts a string for a column of its database.
func ExampleHost_Encrypt() {
	host, err := pikokms.New(pikokms.WithCryptoProvider("dev", exampleKey("dev"))) // one key, and no storage
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	column := map[string]string{"column": "iban"}
	text, err := host.Encrypt(context.Background(), "DE89 3704 0044 0532 0130 00", column)
	if err != nil {
		log.Fatal(err)
	}
	iban, err := host.Decrypt(context.Background(), text, column)
	fmt.Println(iban, err)
	// Output: DE89 3704 0044 0532 0130 00 <nil>
}

// Development and production differ only in WithDefaultCryptoProvider, and each reads what the
// other wrote.
func ExampleWithDefaultCryptoProvider() {
	folder, remove := exampleFolder() // folderstorage.New("objects")
	defer remove()
	ctx := context.Background()
	wire := func(name string) *pikokms.Host {
		host, err := pikokms.New(
			pikokms.WithCryptoProvider("development", exampleKey("development")),
			pikokms.WithCryptoProvider("production", exampleKey("production")), // awskms.NewProvider
			pikokms.WithDefaultCryptoProvider(name),
			pikokms.WithStorage(folder),
		)
		if err != nil {
			log.Fatal(err)
		}
		return host
	}
	if err := wire("development").Put(ctx, "note", strings.NewReader("written in development")); err != nil {
		log.Fatal(err)
	}
	content, err := wire("production").Get(ctx, "note")
	if err != nil {
		log.Fatal(err)
	}
	defer content.Close()
	text, err := io.ReadAll(content)
	fmt.Println(string(text), err)
	// Output: written in development <nil>
}

// An object is written for two keys, each of which opens it alone.
func ExampleWithMessages() {
	ours, escrow := exampleKey("ours"), exampleKey("escrow")
	folder, remove := exampleFolder() // folderstorage.New("objects")
	defer remove()
	host, err := pikokms.New(pikokms.WithStorage(folder), pikokms.WithMessages(
		message.Encrypter{Keyring: ours, Recipients: []provider.Wrapper{escrow}},
		message.Decrypter{Keyrings: []provider.Unwrapper{ours}},
	))
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	ctx := context.Background()
	if err := host.Put(ctx, "report", strings.NewReader("for both")); err != nil {
		log.Fatal(err)
	}

	auditor, err := pikokms.New(pikokms.WithStorage(folder), pikokms.WithCryptoProvider("escrow", escrow))
	if err != nil {
		log.Fatal(err)
	}
	defer auditor.Close()
	content, err := auditor.Get(ctx, "report")
	if err != nil {
		log.Fatal(err)
	}
	defer content.Close()
	text, err := io.ReadAll(content)
	fmt.Println(string(text), err)
	// Output: for both <nil>
}

// The pairs of the encryption context are for policies and logs of the key service. Stat reads an
// object's size and time without asking the key service.
func ExampleHost_PutWith() {
	folder, remove := exampleFolder() // folderstorage.New("objects")
	defer remove()
	host, err := pikokms.New(pikokms.WithStorage(folder), pikokms.WithCryptoProvider("dev", exampleKey("dev")))
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	ctx := context.Background()
	err = host.PutWith(ctx, "invoices/1.txt", strings.NewReader("42 euros"), map[string]string{"tenant": "acme"})
	if err != nil {
		log.Fatal(err)
	}
	info, err := host.Stat(ctx, "invoices/1.txt")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Name(), info.Size())
	// Output: 1.txt 8
}

// Open gives random access: only the frames that a read touches are decrypted.
func ExampleHost_Open() {
	folder, remove := exampleFolder() // folderstorage.New("objects")
	defer remove()
	host, err := pikokms.New(pikokms.WithCryptoProvider("dev", exampleKey("dev")), pikokms.WithStorage(folder))
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := host.Put(ctx, "large", strings.NewReader(strings.Repeat("0123456789", 1_000_000))); err != nil {
		log.Fatal(err)
	}
	object, err := host.Open(ctx, "large")
	if err != nil {
		log.Fatal(err)
	}
	defer object.Close()
	p := make([]byte, 5)
	_, err = object.ReadAt(p, 5_000_003)
	fmt.Println(object.Size(), string(p), err)
	// Output: 10000000 34567 <nil>
}

// A pipe passes on content that is written piece by piece. A writer that fails calls
// CloseWithError, and then nothing is stored. A deferred Close instead would store what was written
// so far as a complete object.
func ExampleHost_Put() {
	folder, remove := exampleFolder() // folderstorage.New("objects")
	defer remove()
	host, err := pikokms.New(pikokms.WithCryptoProvider("dev", exampleKey("dev")), pikokms.WithStorage(folder))
	if err != nil {
		log.Fatal(err)
	}

	report := func(w io.Writer) error {
		fmt.Fprintln(w, "one of two lines")
		return errors.New("the database is gone")
	}
	content, w := io.Pipe()
	go func() { w.CloseWithError(report(w)) }() // nil is a whole report
	err = host.Put(context.Background(), "report", content)
	fmt.Println(err)
	_, err = host.Get(context.Background(), "report")
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output:
	// folder storage: put report: the database is gone
	// true
}

// The caller drives a storage of its own. It stores what EncryptObject returns, and keeps nothing
// after an error.
func ExampleHost_EncryptObject() {
	host, err := pikokms.New(pikokms.WithCryptoProvider("dev", exampleKey("dev"))) // one key, and no storage
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	sealed, err := host.EncryptObject(ctx, "notes/1", strings.NewReader("for a store of my own"), nil)
	if err != nil {
		log.Fatal(err)
	}
	stored, err := io.ReadAll(sealed) // an upload, which is aborted if sealed fails
	if err != nil {
		log.Fatal(err)
	}
	content, size, err := host.DecryptObject(ctx, "notes/1", bytes.NewReader(stored), int64(len(stored)), nil)
	if err != nil {
		log.Fatal(err)
	}
	text, err := io.ReadAll(content)
	fmt.Println(size, string(text), err)
	// Output: 21 for a store of my own <nil>
}

// Objects move to the newest version of the default provider's key, and those that are under it
// already stay as they are.
func ExampleHost_Rewrap() {
	folder, remove := exampleFolder() // folderstorage.New("objects")
	defer remove()
	host, err := pikokms.New(
		pikokms.WithCryptoProvider("2025", exampleKey("2025")),
		pikokms.WithCryptoProvider("2026", exampleKey("2026")),
		pikokms.WithDefaultCryptoProvider("2025"),
		pikokms.WithStorage(folder),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	ctx := context.Background()
	if err := host.Put(ctx, "old", strings.NewReader("from last year")); err != nil {
		log.Fatal(err)
	}
	if err := host.SetDefaultCryptoProvider("2026"); err != nil {
		log.Fatal(err)
	}
	if err := host.Put(ctx, "new", strings.NewReader("from this year")); err != nil {
		log.Fatal(err)
	}

	for key, err := range host.List(ctx, "") {
		if err != nil {
			log.Fatal(err)
		}
		current, err := host.IsCurrent(ctx, key)
		if err != nil {
			log.Fatal(err)
		}
		if current {
			continue
		}
		if err := host.Rewrap(ctx, key); err != nil {
			log.Fatal(err)
		}
		fmt.Println("rewrapped", key)
	}
	// Output: rewrapped old
}

// A host reads the plain objects from before it, and encrypts them where they are.
func ExampleHost_Migrate() {
	folder, remove := exampleFolder() // folderstorage.New("objects")
	defer remove()
	ctx := context.Background()
	if err := folder.Put(ctx, "old", strings.NewReader("in the clear")); err != nil {
		log.Fatal(err)
	}
	host, err := pikokms.New(
		pikokms.WithCryptoProvider("dev", exampleKey("dev")),
		pikokms.WithStorage(folder),
		pikokms.AllowPlaintext(), // until all are migrated
	)
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	for key, err := range host.List(ctx, "") {
		if err != nil {
			log.Fatal(err)
		}
		if err := host.Migrate(ctx, key); err != nil {
			log.Fatal(err)
		}
	}

	strict, err := pikokms.New(pikokms.WithCryptoProvider("dev", exampleKey("dev")), pikokms.WithStorage(folder))
	if err != nil {
		log.Fatal(err)
	}
	defer strict.Close()
	content, err := strict.Get(ctx, "old")
	if err != nil {
		log.Fatal(err)
	}
	defer content.Close()
	text, err := io.ReadAll(content)
	fmt.Println(string(text), err)
	// Output: in the clear <nil>
}

// The errors of a host hold what a caller can act on, by errors.Is. Those of key services are in
// package provider.
func ExampleHost_Get() {
	folder, remove := exampleFolder() // folderstorage.New("objects")
	defer remove()
	host, err := pikokms.New(pikokms.WithCryptoProvider("dev", exampleKey("dev")), pikokms.WithStorage(folder))
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	get := func(key string) {
		content, err := host.Get(context.Background(), key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			fmt.Println("there is no such object")
		case errors.Is(err, pikokms.ErrPlaintext):
			fmt.Println("it is not encrypted; host.Migrate would encrypt it")
		case errors.Is(err, provider.ErrUntrustedKey):
			fmt.Println("it is under another key:", err)
		case errors.Is(err, provider.ErrProviderUnavailable):
			fmt.Println("try again later:", err)
		case err != nil:
			log.Fatal(err)
		default:
			defer content.Close()
			if _, err := io.Copy(os.Stdout, content); err != nil { // without an error it is whole
				log.Fatal(err)
			}
		}
	}
	get("nothing")
	if err := folder.Put(context.Background(), "plain", strings.NewReader("in the clear")); err != nil {
		log.Fatal(err)
	}
	get("plain")
	// Output:
	// there is no such object
	// it is not encrypted; host.Migrate would encrypt it
}

// A host is a file system, for an HTTP server that answers with ranges, too.
func ExampleHost_FS() {
	folder, remove := exampleFolder() // folderstorage.New("objects")
	defer remove()
	host, err := pikokms.New(pikokms.WithCryptoProvider("dev", exampleKey("dev")), pikokms.WithStorage(folder))
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	ctx := context.Background()
	if err := host.Put(ctx, "site/index.txt", strings.NewReader("0123456789")); err != nil {
		log.Fatal(err)
	}

	server := httptest.NewServer(http.FileServerFS(host.FS(ctx)))
	defer server.Close()
	request, err := http.NewRequest(http.MethodGet, server.URL+"/site/index.txt", nil)
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("Range", "bytes=3-5")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	fmt.Println(answer.StatusCode, string(text), err)
	// Output: 206 345 <nil>
}

// An object that lies in the place of another is refused.
func ExampleBindObjectName() {
	folder, remove := exampleFolder() // folderstorage.New("objects")
	defer remove()
	host, err := pikokms.New(
		pikokms.WithCryptoProvider("dev", exampleKey("dev")),
		pikokms.WithStorage(folder),
		pikokms.BindObjectName("salaries"),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	ctx := context.Background()
	if err := host.Put(ctx, "ann", strings.NewReader("9,000")); err != nil {
		log.Fatal(err)
	}
	stored, err := folder.Get(ctx, "ann") // somebody who can write to the folder swaps objects
	if err != nil {
		log.Fatal(err)
	}
	defer stored.Close()
	if err := folder.Put(ctx, "bob", stored); err != nil {
		log.Fatal(err)
	}
	_, err = host.Get(ctx, "bob")
	fmt.Println(errors.Is(err, provider.ErrContextMismatch))
	// Output: true
}

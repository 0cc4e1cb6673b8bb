package branchkey_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/local"
)

// Each tenant has a branch key of its own, in a table that AWS's libraries share.
func Example() {
	ctx := context.Background()
	config := branchkey.Config{
		Table:    "branch-keys",
		KMS:      awskms.Config{KeyID: "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"},
		Supplier: branchkey.ByPair("branch-key"), TTL: time.Hour,
	}
	store, err := branchkey.NewStore(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Create(ctx, "tenant-42", map[string]string{"tenant": "42"}); err != nil { // once
		log.Fatal(err)
	}
	p, err := branchkey.NewProvider(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	e := message.Encrypter{Keyring: p}
	stored, err := e.Encrypt(ctx, []byte("invoice"), map[string]string{"branch-key": "tenant-42"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(stored), "bytes")
}

// Without AWS, branch keys are in a file and a local key wraps them.
func ExampleParseURL() {
	ctx := context.Background()
	folder, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	master := filepath.Join(folder, "master.key")
	if err := local.Generate(master); err != nil {
		log.Fatal(err)
	}
	u := &url.URL{
		Scheme: branchkey.KeyService.Scheme, Path: filepath.ToSlash(filepath.Join(folder, "keys.db")),
		RawQuery: url.Values{"id": {"tenant-42"}, "master": {"local://" + filepath.ToSlash(master)}}.Encode(),
	}
	config, err := branchkey.ParseURL(u)
	if err != nil {
		log.Fatal(err)
	}
	store, err := branchkey.NewStore(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if err := store.CreateTable(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := store.Create(ctx, "tenant-42", map[string]string{"tenant": "42"}); err != nil {
		log.Fatal(err)
	}

	p, err := branchkey.NewProvider(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	fmt.Println(p.KeyID())
	// Output: tenant-42
}

// A branch key is destroyed in two steps, with days between them.
func ExampleStore_Destroy() {
	ctx := context.Background()
	folder, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	master := filepath.Join(folder, "master.key")
	if err := local.Generate(master); err != nil {
		log.Fatal(err)
	}
	store, err := branchkey.NewStore(ctx, branchkey.Config{
		File: filepath.Join(folder, "keys.db"), Masters: []local.Config{{KeyFile: master}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if err := store.CreateTable(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := store.Create(ctx, "tenant-42", map[string]string{"tenant": "42"}); err != nil {
		log.Fatal(err)
	}

	disabled, err := store.Disable(ctx, "tenant-42")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("disabled:", errors.Is(disabled.Err, branchkey.ErrDisabled), len(disabled.Items), "items")
	_, err = store.Destroy(ctx, "tenant-42", branchkey.DefaultWait)
	fmt.Println("destroyed at once:", err == nil, errors.Is(err, branchkey.ErrTooEarly))

	// Until the waiting period has passed, and as long as it is not destroyed, there is a way back.
	enabled, err := store.Enable(ctx, "tenant-42")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("enabled:", enabled.Err == nil)
	// Output:
	// disabled: true 3 items
	// destroyed at once: false true
	// enabled: true
}
